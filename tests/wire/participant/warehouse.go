package main

import (
	"encoding/json"
	"errors"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// The business of this participant: a warehouse with ten pieces of everything.
//
//	OrderPlaced   -> StockReserved or StockRefused     undone by ReleaseStock -> StockReleased
//	PackOrder     -> OrderPacked                       undone by UnpackOrder  -> OrderUnpacked

const opening = 10

// event is what a handler says.
type event struct {
	kind   string
	fields map[string]any
}

// handler does the work of one event within a transaction.
type handler struct {
	name    string
	takes   string
	from    string // topic
	gives   []string
	undoes  string // the handler that it undoes
	work    func(tx *bolt.Tx, fields map[string]any) (event, error)
	nothing func(fields map[string]any) event // the answer to an undo that finds nothing to undo
}

// written says how and where an event is published.
type written struct{ topic, schema string } // without a schema: JSON

var says = map[string]written{
	"StockReserved": {"stock", `{"type": "record", "name": "StockReserved", "fields": [
		{"name": "order_id", "type": "string"}, {"name": "article", "type": "string"}, {"name": "left", "type": "long"}]}`},
	"StockRefused": {"stock", ""},
	"StockReleased": {"stock", `{"type": "record", "name": "StockReleased", "fields": [
		{"name": "order_id", "type": "string"}, {"name": "left", "type": ["null", "long"], "default": null}]}`},
	"OrderPacked":   {"stock", ""},
	"OrderUnpacked": {"stock", ""},
}

var handlers = []handler{
	{name: "reserve", takes: "OrderPlaced", from: "orders", gives: []string{"StockReserved", "StockRefused"}, work: reserve},
	{
		name: "release", takes: "ReleaseStock", from: "stock.commands", gives: []string{"StockReleased"}, undoes: "reserve",
		work: release,
		nothing: func(fields map[string]any) event {
			return event{"StockReleased", map[string]any{"order_id": fields["order_id"], "left": nil}}
		},
	},
	{name: "pack", takes: "PackOrder", from: "stock.commands", gives: []string{"OrderPacked"}, work: pack},
	{
		name: "unpack", takes: "UnpackOrder", from: "stock.commands", gives: []string{"OrderUnpacked"}, undoes: "pack",
		work: unpack,
		nothing: func(fields map[string]any) event {
			return event{"OrderUnpacked", map[string]any{"order_id": fields["order_id"]}}
		},
	},
}

// aside is what lies aside for an order.
type aside struct {
	Article  string
	Quantity int64
}

func reserve(tx *bolt.Tx, fields map[string]any) (event, error) {
	order, article, quantity := str(fields, "order_id"), str(fields, "article"), whole(fields, "quantity")
	if strings.HasPrefix(article, "broken") {
		return event{}, errors.New("the shelf broke")
	}
	left := count(tx, "stock", article, opening)
	if quantity > left {
		return event{"StockRefused", map[string]any{"order_id": order}}, nil
	}
	put(tx, "stock", article, left-quantity)
	put(tx, "aside", order, aside{article, quantity})
	return event{"StockReserved", map[string]any{"order_id": order, "article": article, "left": left - quantity}}, nil
}

func release(tx *bolt.Tx, fields map[string]any) (event, error) {
	order := str(fields, "order_id")
	var found aside
	if !get(tx, "aside", order, &found) { // it was refused: nothing lies aside
		return event{"StockReleased", map[string]any{"order_id": order, "left": nil}}, nil
	}
	left := count(tx, "stock", found.Article, opening) + found.Quantity
	put(tx, "stock", found.Article, left)
	check(tx.Bucket([]byte("aside")).Delete([]byte(order)))
	return event{"StockReleased", map[string]any{"order_id": order, "left": left}}, nil
}

func pack(tx *bolt.Tx, fields map[string]any) (event, error) {
	order := str(fields, "order_id")
	boxes := count(tx, "boxes", order, 0) + 1
	put(tx, "boxes", order, boxes)
	return event{"OrderPacked", map[string]any{"order_id": order, "boxes": boxes}}, nil
}

func unpack(tx *bolt.Tx, fields map[string]any) (event, error) {
	order := str(fields, "order_id")
	put(tx, "boxes", order, count(tx, "boxes", order, 0)-1)
	return event{"OrderUnpacked", map[string]any{"order_id": order}}, nil
}

func str(fields map[string]any, name string) string {
	value, _ := fields[name].(string)
	return value
}

func whole(fields map[string]any, name string) int64 {
	switch value := fields[name].(type) {
	case int64:
		return value
	case float64:
		return int64(value)
	}
	return 0
}

func count(tx *bolt.Tx, bucket, key string, otherwise int64) int64 {
	found := otherwise
	get(tx, bucket, key, &found)
	return found
}

func get(tx *bolt.Tx, bucket, key string, into any) bool {
	value := tx.Bucket([]byte(bucket)).Get([]byte(key))
	if value == nil {
		return false
	}
	check(json.Unmarshal(value, into))
	return true
}

func put(tx *bolt.Tx, bucket, key string, value any) {
	spelled, err := json.Marshal(value)
	check(err)
	check(tx.Bucket([]byte(bucket)).Put([]byte(key), spelled))
}
