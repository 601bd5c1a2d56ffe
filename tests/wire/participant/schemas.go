package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// schemas is the registry that is a compacted topic.
type schemas struct {
	broker   string
	topic    string
	byID     map[uint32]avro.Schema
	subjects map[string][]uint32 // of a subject, oldest first
	texts    map[uint32]string
}

// registered is a record's value there.
type registered struct {
	Subject string          `json:"subject"`
	ID      uint32          `json:"id"`
	Schema  json.RawMessage `json:"schema"`
}

func openSchemas(broker, prefix string) *schemas {
	return &schemas{
		broker: broker, topic: prefix + "choreo.schemas",
		byID: map[uint32]avro.Schema{}, subjects: map[string][]uint32{}, texts: map[uint32]string{},
	}
}

// read reads the topic from its beginning to its present end.
func (s *schemas) read(ctx context.Context) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(s.broker),
		kgo.ConsumeTopics(s.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, s.topic)
	if err != nil {
		return err
	}
	end, found := ends.Lookup(s.topic, 0)
	if !found || end.Err != nil {
		return fmt.Errorf("the topic %s cannot be read", s.topic)
	}
	for next := int64(0); next < end.Offset; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			next = record.Offset + 1
			var one registered
			if json.Unmarshal(record.Value, &one) == nil {
				s.add(one.Subject, one.ID, one.Schema)
			}
		})
	}
	return nil
}

func (s *schemas) add(subject string, id uint32, schema []byte) {
	if _, known := s.byID[id]; !known {
		// A cache of its own for each: records of one name differ from schema to schema.
		parsed, err := avro.ParseWithCache(string(schema), "", &avro.SchemaCache{})
		if err != nil {
			return
		}
		s.byID[id], s.texts[id] = parsed, compact(schema)
	}
	for _, each := range s.subjects[subject] {
		if each == id {
			return
		}
	}
	s.subjects[subject] = append(s.subjects[subject], id)
}

// register gives the id of a schema, and announces it if the subject does not have it.
func (s *schemas) register(ctx context.Context, client *kgo.Client, topic, kind, schema string) (uint32, error) {
	subject, wanted := topic+"-"+kind, compact([]byte(schema))
	for _, id := range s.subjects[subject] {
		if s.texts[id] == wanted {
			return id, nil
		}
	}
	sum := sha256.Sum256([]byte(wanted))
	id := binary.BigEndian.Uint32(sum[:4])&0x7fffffff | 1
	for taken := s.texts[id] != ""; taken && s.texts[id] != wanted; taken = s.texts[id] != "" {
		id = id%0x7fffffff + 1
	}
	value, err := json.Marshal(registered{Subject: subject, ID: id, Schema: json.RawMessage(schema)})
	if err != nil {
		return 0, err
	}
	record := &kgo.Record{Topic: s.topic, Key: fmt.Appendf(nil, "%s:%d", subject, id), Value: value}
	if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
		return 0, err
	}
	s.add(subject, id, []byte(schema))
	return id, nil
}

// encode writes the Confluent wire format.
func (s *schemas) encode(id uint32, fields map[string]any) ([]byte, error) {
	body, err := avro.Marshal(s.byID[id], fields)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, id), body...), nil
}

// decode reads a value; whether it is Avro or JSON says the content type.
func (s *schemas) decode(ctx context.Context, value []byte, contentType string) (map[string]any, error) {
	var fields map[string]any
	if contentType == jsonType || contentType == "" && bytes.HasPrefix(value, []byte("{")) {
		decoder := json.NewDecoder(bytes.NewReader(value))
		if err := decoder.Decode(&fields); err != nil {
			return nil, errors.New("the value is not JSON")
		}
		return fields, nil
	}
	if contentType != avroType && contentType != "" {
		return nil, fmt.Errorf("content type %q", contentType)
	}
	if len(value) < 5 || value[0] != 0 {
		return nil, errors.New("the value does not begin with the magic byte and a schema id")
	}
	id := binary.BigEndian.Uint32(value[1:5])
	if _, known := s.byID[id]; !known {
		if err := s.read(ctx); err != nil {
			return nil, unavailable{err}
		}
	}
	schema, known := s.byID[id]
	if !known {
		return nil, fmt.Errorf("no schema has the id %d", id)
	}
	reader := avro.NewReader(bytes.NewReader(value[5:]), 1024)
	reader.ReadVal(schema, &fields)
	if reader.Error != nil {
		return nil, errors.New("the value is not what its schema says")
	}
	if reader.Peek(); !errors.Is(reader.Error, io.EOF) {
		return nil, errors.New("bytes after the end")
	}
	return fields, nil
}

// unavailable is no fault of an event: it is waited for.
type unavailable struct{ error }

func compact(schema []byte) string {
	var out bytes.Buffer
	check(json.Compact(&out, schema))
	return out.String()
}
