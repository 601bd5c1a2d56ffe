package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	avroType        = "application/avro"
	jsonType        = "application/json"
	mostHeaders     = 64
	mostHeaderBytes = 8192
	longestID       = 255
)

// The headers that may stand once only; a malformed one of these makes a dead letter.
var strict = []string{
	"ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type", "causation-id", "saga-id", "saga-type",
	"saga-run", "saga-step", "saga-occurrence", "saga-attempt", "saga-version", "saga-depth", "undoes",
}

// Of these a malformed or double one is as if it were not there.
var lenient = []string{"traceparent", "tracestate", "baggage", "saga-traceparent"}

var numbers = []string{"saga-run", "saga-attempt", "saga-version", "saga-depth"}

// envelope is what the headers and the key of a record say.
type envelope struct {
	id, kind, key string
	headers       map[string]string // the known ones
	undoes        []string
}

// command says whether a saga has sent this: then what answers it is of the same step.
func (e envelope) command() bool { return e.headers["saga-attempt"] != "" }

func readEnvelope(record *kgo.Record) (envelope, error) {
	if len(record.Headers) > mostHeaders {
		return envelope{}, fmt.Errorf("%d headers", len(record.Headers))
	}
	known := map[string]string{}
	ignored := map[string]bool{}
	size := 0
	for _, header := range record.Headers {
		size += len(header.Key) + len(header.Value)
		_, seen := known[header.Key]
		switch {
		case among(header.Key, lenient):
			if seen || ignored[header.Key] || !utf8.Valid(header.Value) {
				delete(known, header.Key)
				ignored[header.Key] = true
				continue
			}
		case !among(header.Key, strict):
			continue
		case seen:
			return envelope{}, fmt.Errorf("header %s stands twice", header.Key)
		case !utf8.Valid(header.Value):
			return envelope{}, fmt.Errorf("header %s is not UTF-8", header.Key)
		}
		known[header.Key] = string(header.Value)
	}
	if size > mostHeaderBytes {
		return envelope{}, fmt.Errorf("headers of %d bytes", size)
	}
	for _, name := range numbers {
		if text, there := known[name]; there {
			if _, err := strconv.ParseUint(text, 10, 32); err != nil {
				return envelope{}, fmt.Errorf("header %s is no number", name)
			}
		}
	}
	if text, there := known["ce_time"]; there {
		if _, err := time.Parse(time.RFC3339, text); err != nil {
			return envelope{}, errors.New("header ce_time is no time")
		}
	}
	if !utf8.Valid(record.Key) {
		return envelope{}, errors.New("the key is not UTF-8")
	}
	found := envelope{id: known["ce_id"], kind: known["ce_type"], key: string(record.Key), headers: known}
	if found.id == "" {
		found.id = derived("record", record.Topic, fmt.Sprint(record.Partition), fmt.Sprint(record.Offset))
	}
	if text := known["undoes"]; text != "" {
		found.undoes = strings.Split(text, ",")
	}
	for _, id := range append([]string{found.id}, found.undoes...) {
		if utf8.RuneCountInString(id) > longestID || strings.Contains(id, "\x00") {
			return envelope{}, fmt.Errorf("an id has more than %d characters, or a NUL", longestID)
		}
	}
	return found, nil
}

// derived gives an id that is the same for the same parts: a UUID of version 8, here from SHA-256.
func derived(parts ...string) string {
	sum := sha256.New()
	for _, part := range parts {
		_ = binary.Write(sum, binary.BigEndian, uint32(len(part)))
		sum.Write([]byte(part))
	}
	id := sum.Sum(nil)[:16]
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// outgoing is a record that is to be published; it is kept as JSON, so that it can be sent again as it was.
type outgoing struct {
	Topic   string
	Key     []byte
	Value   []byte
	Headers []kgo.RecordHeader
}

// head gives the headers of an event that follows from another one.
func head(id, kind, contentType string, cause envelope) []kgo.RecordHeader {
	headers := []kgo.RecordHeader{
		text("ce_specversion", "1.0"),
		text("ce_id", id),
		text("ce_type", kind),
		text("ce_source", service),
		text("ce_time", now()),
		text("content-type", contentType),
		text("causation-id", cause.id),
	}
	inherited := []string{"saga-id", "saga-type", "saga-run", "traceparent", "tracestate", "saga-traceparent"}
	if cause.command() {
		inherited = append(inherited, "saga-step", "saga-occurrence")
	}
	for _, name := range inherited {
		if value := cause.headers[name]; value != "" {
			headers = append(headers, text(name, value))
		}
	}
	return headers
}

// deadLetter gives the record for the dead letters: as it came, and why.
func deadLetter(topic string, record *kgo.Record, handler string, attempts int, failure error) outgoing {
	kept := []kgo.RecordHeader{}
	for _, header := range record.Headers {
		if !strings.HasPrefix(header.Key, "dlq-") && header.Key != "replay-id" {
			kept = append(kept, header)
		}
	}
	kept = append(kept,
		text("dlq-service", service),
		text("dlq-handler", handler),
		text("dlq-error", "Failure"),
		text("dlq-message", firstLine(failure)),
		text("dlq-attempts", strconv.Itoa(attempts)),
		text("dlq-topic", topic),
		text("dlq-partition", fmt.Sprint(record.Partition)),
		text("dlq-offset", fmt.Sprint(record.Offset)),
		text("dlq-time", now()),
	)
	return outgoing{Topic: topic + ".dlq", Key: record.Key, Value: record.Value, Headers: kept}
}

// handlerFailed gives the news for the sagas that a handler gave an event up.
func handlerFailed(topic string, record *kgo.Record, cause envelope, handler string, attempts int, failure error) outgoing {
	key := cause.key
	if key == "" || utf8.RuneCountInString(key) > 10_000 {
		key = cause.id
	}
	value, err := json.Marshal(map[string]any{
		"key":         key,
		"service":     service,
		"handler":     handler,
		"event_id":    cause.id,
		"event_type":  cause.kind,
		"topic":       topic,
		"partition":   record.Partition,
		"offset":      record.Offset,
		"dead":        true,
		"attempts":    attempts,
		"error_class": "Failure",
		"message":     firstLine(failure),
	})
	check(err)
	headers := head(derived("failed", cause.id, service, handler), "HandlerFailed", jsonType, cause)
	if attempt := cause.headers["saga-attempt"]; attempt != "" {
		headers = append(headers, text("saga-attempt", attempt))
	}
	return outgoing{Topic: "choreo.failures", Key: []byte(key), Value: value, Headers: headers}
}

func text(name, value string) kgo.RecordHeader {
	return kgo.RecordHeader{Key: name, Value: []byte(value)}
}

func now() string { return time.Now().UTC().Format("2006-01-02T15:04:05.000000Z") }

func firstLine(failure error) string {
	line, _, _ := strings.Cut(failure.Error(), "\n")
	if runes := []rune(line); len(runes) > 300 {
		line = string(runes[:300])
	}
	return line
}

func among(name string, names []string) bool {
	for _, each := range names {
		if each == name {
			return true
		}
	}
	return false
}
