// A service that takes part in sagas without a line of choreo, written from docs/wire.md.
//
// It reads CHOREO_BROKER (kafka://host:port), CHOREO_TOPIC_PREFIX, CHOREO_HOME (the folder of its store) and
// CHOREO_SESSION (seconds after which others take over what it held).
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	bolt "go.etcd.io/bbolt"
)

const service = "warehouse"

// participant is the whole service: one client, one store, one record after another.
type participant struct {
	client  *kgo.Client
	store   *bolt.DB
	schemas *schemas
	ids     map[string]uint32 // of the schemas of what it says
	prefix  string
}

func main() {
	log.SetFlags(0)
	broker, prefix := strings.TrimPrefix(os.Getenv("CHOREO_BROKER"), "kafka://"), os.Getenv("CHOREO_TOPIC_PREFIX")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	session, err := time.ParseDuration(os.Getenv("CHOREO_SESSION") + "s")
	if err != nil {
		session = 30 * time.Second
	}
	store, err := bolt.Open(filepath.Join(os.Getenv("CHOREO_HOME"), "warehouse.bolt"), 0o600, nil)
	check(err)
	defer store.Close()
	check(store.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{"inbox", "outbox", "stock", "aside", "boxes"} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	}))

	topics := map[string]bool{}
	for _, each := range handlers {
		topics[prefix+each.from] = true
	}
	names := []string{}
	for name := range topics {
		names = append(names, name)
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(broker),
		kgo.ClientID(service),
		kgo.ConsumerGroup(prefix+service),
		kgo.SessionTimeout(session),
		kgo.HeartbeatInterval(session/4),
		kgo.ConsumeTopics(names...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(), // nothing is taken away while its records are worked on
		kgo.RequiredAcks(kgo.AllISRAcks()),
	)
	check(err)
	defer client.Close()

	p := &participant{client: client, store: store, schemas: openSchemas(broker, prefix), ids: map[string]uint32{}, prefix: prefix}
	p.prepare(ctx)
	log.Print("warehouse runs")
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		fetches.EachError(func(topic string, partition int32, err error) {
			if !errors.Is(err, context.Canceled) {
				log.Printf("%s/%d: %v", topic, partition, err)
			}
		})
		records := fetches.Records()
		for _, record := range records {
			p.take(ctx, record)
		}
		if len(records) > 0 {
			if err := client.CommitRecords(context.WithoutCancel(ctx), records...); err != nil {
				log.Printf("not committed, so it comes again: %v", err)
			}
		}
		client.AllowRebalance()
	}
	log.Print("warehouse stopped")
}

// prepare registers schemas, announces the service and publishes what an earlier life has left.
func (p *participant) prepare(ctx context.Context) {
	check(p.schemas.read(ctx))
	for kind, how := range says {
		if how.schema != "" {
			id, err := p.schemas.register(ctx, p.client, how.topic, kind, how.schema)
			check(err)
			p.ids[kind] = id
		}
	}
	type reference struct {
		Type  string `json:"type"`
		Topic string `json:"topic"`
	}
	announced := []map[string]any{}
	for _, each := range handlers {
		gives := []reference{}
		for _, kind := range each.gives {
			gives = append(gives, reference{kind, says[kind].topic})
		}
		told := map[string]any{
			"name": each.name, "consumes": []reference{{each.takes, each.from}}, "produces": gives, "claims": false,
		}
		if each.undoes != "" {
			told["undoes"] = each.undoes
		}
		announced = append(announced, told)
	}
	value, err := json.Marshal(map[string]any{"service": service, "group": service, "handlers": announced})
	check(err)
	p.send(ctx, []outgoing{{
		Topic: "choreo.catalog", Key: []byte(service), Value: value, Headers: []kgo.RecordHeader{text("content-type", jsonType)},
	}})
	p.flush(ctx)
}

// take brings one record to its end: handled, answered again, dropped or a dead letter.
func (p *participant) take(ctx context.Context, record *kgo.Record) {
	topic := strings.TrimPrefix(record.Topic, p.prefix)
	found, err := readEnvelope(record)
	if err != nil {
		place := derived("record", topic, fmt.Sprint(record.Partition), fmt.Sprint(record.Offset))
		p.giveUp(ctx, topic, record, envelope{id: place, key: strings.ToValidUTF8(string(record.Key), "\uFFFD")}, handler{}, 0, err)
		return
	}
	for _, each := range handlers {
		if each.takes != found.kind || each.from != topic {
			continue
		}
		fields, err := p.schemas.decode(ctx, record.Value, found.headers["content-type"])
		for errors.As(err, &unavailable{}) && ctx.Err() == nil {
			time.Sleep(time.Second)
			fields, err = p.schemas.decode(ctx, record.Value, found.headers["content-type"])
		}
		if ctx.Err() != nil {
			return // it is not committed, and comes again
		}
		if err != nil {
			p.giveUp(ctx, topic, record, found, each, 0, err)
			return
		}
		err = p.store.Update(func(tx *bolt.Tx) error { return p.handle(tx, each, record, found, fields) })
		if err != nil { // the transaction is rolled back, so nothing of it happened
			p.giveUp(ctx, topic, record, found, each, 1, err)
			return
		}
		p.flush(ctx)
	}
}

// met is what the store remembers of an event that a handler has met.
type met struct {
	State  string // done, failed, refused (undone before it came), undone
	Answer []outgoing
}

func (p *participant) handle(tx *bolt.Tx, h handler, record *kgo.Record, found envelope, fields map[string]any) error {
	key := h.name + "\x00" + found.id
	var before met
	if get(tx, "inbox", key, &before) && !(before.State == "failed" && header(record, "replay-id") != "") {
		if before.State == "done" && (h.undoes != "" || found.command()) {
			p.publish(tx, before.Answer) // whoever asks again has not heard the answer
		}
		return nil
	}
	if h.undoes == "" {
		said, err := h.work(tx, fields)
		if err != nil {
			return err
		}
		answer := p.spell(h, said, found)
		put(tx, "inbox", key, met{"done", answer})
		p.publish(tx, answer)
		return nil
	}
	return p.undo(tx, h, key, found, fields)
}

func (p *participant) undo(tx *bolt.Tx, h handler, key string, found envelope, fields map[string]any) error {
	happened, again := false, []outgoing(nil)
	for _, id := range found.undoes {
		var step met
		place := h.undoes + "\x00" + id
		switch known := get(tx, "inbox", place, &step); {
		case !known || step.State == "failed":
			put(tx, "inbox", place, met{State: "refused"}) // should it come yet, it is refused
		case step.State == "done":
			happened = true
		case step.State == "undone":
			again = step.Answer
		}
	}
	var answer []outgoing
	switch {
	case happened || len(found.undoes) == 0:
		said, err := h.work(tx, fields)
		if err != nil {
			return err
		}
		answer = p.spell(h, said, found)
	case again != nil:
		answer = again // a further attempt of an undo: what was said before is said again
	default:
		answer = p.spell(h, h.nothing(fields), found, text("undo-empty", "1"))
	}
	for _, id := range found.undoes {
		var step met
		if place := h.undoes + "\x00" + id; get(tx, "inbox", place, &step) && step.State == "done" {
			put(tx, "inbox", place, met{"undone", answer})
		}
	}
	put(tx, "inbox", key, met{"done", answer})
	p.publish(tx, answer)
	return nil
}

// spell makes the record of what a handler says: its id is the same whenever the event comes again.
func (p *participant) spell(h handler, said event, cause envelope, extra ...kgo.RecordHeader) []outgoing {
	how, id := says[said.kind], derived("output", cause.id, service, h.name, "0")
	var value []byte
	var err error
	contentType := jsonType
	if how.schema != "" {
		contentType = avroType
		value, err = p.schemas.encode(p.ids[said.kind], said.fields)
	} else {
		value, err = json.Marshal(said.fields)
	}
	check(err)
	headers := append(head(id, said.kind, contentType, cause), extra...)
	return []outgoing{{Topic: how.topic, Key: []byte(str(said.fields, "order_id")), Value: value, Headers: headers}}
}

// giveUp gives a record to the dead letters and tells the sagas.
func (p *participant) giveUp(
	ctx context.Context, topic string, record *kgo.Record, found envelope, h handler, attempts int, failure error,
) {
	check(p.store.Update(func(tx *bolt.Tx) error {
		key := h.name + "\x00" + found.id
		var before met
		if get(tx, "inbox", key, &before) && !(before.State == "failed" && header(record, "replay-id") != "") {
			return nil
		}
		put(tx, "inbox", key, met{State: "failed"})
		p.publish(tx, []outgoing{
			deadLetter(topic, record, h.name, attempts, failure),
			handlerFailed(topic, record, found, h.name, attempts, failure),
		})
		return nil
	}))
	p.flush(ctx)
}

// publish puts records into the outbox, in the transaction that has caused them.
func (p *participant) publish(tx *bolt.Tx, records []outgoing) {
	box := tx.Bucket([]byte("outbox"))
	for _, record := range records {
		number, err := box.NextSequence()
		check(err)
		spelled, err := json.Marshal(record)
		check(err)
		check(box.Put(binary.BigEndian.AppendUint64(nil, number), spelled))
	}
}

// flush sends what is in the outbox; only what the broker has is taken out.
func (p *participant) flush(ctx context.Context) {
	var keys [][]byte
	var records []outgoing
	check(p.store.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("outbox")).ForEach(func(key, value []byte) error {
			var record outgoing
			keys = append(keys, append([]byte(nil), key...))
			err := json.Unmarshal(value, &record)
			records = append(records, record)
			return err
		})
	}))
	if len(records) == 0 {
		return
	}
	p.send(ctx, records)
	check(p.store.Update(func(tx *bolt.Tx) error {
		for _, key := range keys {
			check(tx.Bucket([]byte("outbox")).Delete(key))
		}
		return nil
	}))
}

func (p *participant) send(ctx context.Context, records []outgoing) {
	produced := make([]*kgo.Record, len(records))
	for i, each := range records {
		produced[i] = &kgo.Record{Topic: p.prefix + each.Topic, Key: each.Key, Value: each.Value, Headers: each.Headers}
	}
	check(p.client.ProduceSync(context.WithoutCancel(ctx), produced...).FirstErr())
}

func header(record *kgo.Record, name string) string {
	for _, each := range record.Headers {
		if each.Key == name {
			return string(each.Value)
		}
	}
	return ""
}

// check ends the process: what is not committed comes again when it is started anew.
func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
