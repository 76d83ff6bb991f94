package main

import (
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
)

func kv(r *run) {
	const prefix = "go/kv/"
	first := r.put(prefix+"a", "1")
	again, err := r.client.Put(r.ctx, prefix+"a", "2", clientv3.WithPrevKV())
	r.must("put", err)
	r.check("a put gives the next revision and the value before",
		again.Header.Revision == first+1 && string(again.PrevKv.Value) == "1", again)
	got := r.get(prefix + "a").Kvs[0]
	r.check("a get tells versions and revisions",
		got.CreateRevision == first && got.ModRevision == first+1 && got.Version == 2 && got.Lease == 0, got)
	for _, name := range []string{"c", "b", "d"} {
		r.put(prefix+name, name)
	}
	page := r.get(prefix, clientv3.WithPrefix(), clientv3.WithLimit(2))
	r.check("a page is in order, with count and more", keys(page, prefix) == "a b" && page.Count == 4 && page.More, page)
	down := r.get(prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	r.check("sorted by key, downwards", keys(down, prefix) == "d c b a", down)
	made := r.get(prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	r.check("sorted by creation", keys(made, prefix) == "a c b d", made)
	last := r.get(prefix, append(clientv3.WithLastRev(), clientv3.WithPrefix())...)
	r.check("the key changed last", keys(last, prefix) == "d", last)
	old := r.get(prefix+"a", clientv3.WithRev(first))
	r.check("an old revision", string(old.Kvs[0].Value) == "1", old)
	names := r.get(prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithSerializable())
	r.check("keys only", keys(names, prefix) == "a b c d" && len(names.Kvs[0].Value) == 0, names)
	counted := r.get(prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	r.check("count only", counted.Count == 4 && len(counted.Kvs) == 0, counted)
	newer := r.get(prefix, clientv3.WithPrefix(), clientv3.WithMinModRev(first+3))
	r.check("a filter by revision leaves the count", keys(newer, prefix) == "b d" && newer.Count == 4, newer)
	behind := r.get(prefix+"c", clientv3.WithRange(prefix+"\xff"))
	r.check("an interval", keys(behind, prefix) == "c d", behind)
	kept, err := r.client.Put(r.ctx, prefix+"a", "", clientv3.WithIgnoreValue())
	r.must("put that keeps the value", err)
	r.check("a put that keeps the value", r.value(prefix+"a") == "2" && kept.PrevKv == nil, kept)
	gone, err := r.client.Delete(r.ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	r.must("delete", err)
	r.check("a deletion tells what it deleted", gone.Deleted == 4 && len(gone.PrevKvs) == 4, gone)
	none, err := r.client.Delete(r.ctx, prefix+"a")
	r.must("delete of nothing", err)
	r.check("a deletion of nothing takes no revision", none.Deleted == 0 && none.Header.Revision == gone.Header.Revision)
}

func txn(r *run) {
	const key, other = "go/txn/a", "go/txn/b"
	revision := r.put(key, "old")
	won, err := r.client.Txn(r.ctx).If(
		clientv3.Compare(clientv3.Value(key), "=", "old"),
		clientv3.Compare(clientv3.Version(key), ">", 0),
		clientv3.Compare(clientv3.ModRevision(key), "=", revision),
		clientv3.Compare(clientv3.CreateRevision(other), "=", 0),
	).Then(
		clientv3.OpPut(key, "new"),
		clientv3.OpGet(key),
		clientv3.OpPut(other, "x", clientv3.WithPrevKV()),
		clientv3.OpDelete("go/txn/none"),
	).Else(clientv3.OpGet(key)).Commit()
	r.must("txn", err)
	r.check("all comparisons hold", won.Succeeded && len(won.Responses) == 4, won)
	r.check("one revision for all", won.Header.Revision == revision+1 &&
		r.get(key).Kvs[0].ModRevision == revision+1 && r.get(other).Kvs[0].ModRevision == revision+1, won)
	r.check("it reads its own writes", string(won.Responses[1].GetResponseRange().Kvs[0].Value) == "new", won)
	lost, err := r.client.Txn(r.ctx).If(clientv3.Compare(clientv3.Value(key), "!=", "new")).
		Then(clientv3.OpPut(key, "wrong")).Else(clientv3.OpGet(key)).Commit()
	r.must("txn", err)
	r.check("the other branch", !lost.Succeeded &&
		string(lost.Responses[0].GetResponseRange().Kvs[0].Value) == "new" && lost.Header.Revision == revision+1, lost)
	all, err := r.client.Txn(r.ctx).
		If(clientv3.Compare(clientv3.ModRevision("go/txn/").WithPrefix(), "=", revision+1)).Commit()
	r.must("txn over a prefix", err)
	r.check("a comparison over a prefix", all.Succeeded)
	nested, err := r.client.Txn(r.ctx).Then(
		clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.Value(other), "=", "x")},
			[]clientv3.Op{clientv3.OpPut(other, "y"), clientv3.OpGet(other)},
			nil,
		),
		clientv3.OpGet(other),
	).Commit()
	r.must("nested txn", err)
	inner := nested.Responses[0].GetResponseTxn()
	r.check("a nested transaction", inner.Succeeded &&
		string(inner.Responses[1].GetResponseRange().Kvs[0].Value) == "y" &&
		string(nested.Responses[1].GetResponseRange().Kvs[0].Value) == "y", nested)
	done, err := r.client.Do(r.ctx, clientv3.OpGet(other))
	r.must("do", err)
	r.check("an operation by itself", string(done.Get().Kvs[0].Value) == "y")
}

// namespaces: a prefix that the client puts before every key and takes off again; the server knows nothing of it.
func namespaces(r *run) {
	const space = "go/ns/space/"
	inside := namespace.NewKV(r.client, space)
	watcher := namespace.NewWatcher(r.client, space)
	leases := namespace.NewLease(r.client, space)
	r.put("go/ns/space", "neighbour before")
	r.put("go/ns/space0", "neighbour behind")
	granted, err := r.client.Grant(r.ctx, 60)
	r.must("grant", err)
	events := watcher.Watch(r.ctx, "", clientv3.WithPrefix(), clientv3.WithPrevKV())
	_, err = inside.Put(r.ctx, "a", "1", clientv3.WithLease(granted.ID))
	r.must("put", err)
	_, err = inside.Put(r.ctx, "b", "2")
	r.must("put", err)
	r.check("keys are stored with the prefix", keys(r.get("go/ns/space/", clientv3.WithPrefix()), space) == "a b")
	got, err := inside.Get(r.ctx, "a")
	r.must("get", err)
	r.check("a get gives the key without it", string(got.Kvs[0].Key) == "a" && string(got.Kvs[0].Value) == "1", got)
	all, err := inside.Get(r.ctx, "\x00", clientv3.WithFromKey())
	r.must("get from a key on", err)
	r.check("all keys are all keys of the namespace", keys(all, "") == "a b", all)
	up, err := inside.Get(r.ctx, "", clientv3.WithPrefix())
	r.must("get with an empty prefix", err)
	r.check("the empty prefix too", keys(up, "") == "a b", up)
	put, err := inside.Put(r.ctx, "a", "3", clientv3.WithPrevKV(), clientv3.WithIgnoreLease())
	r.must("put", err)
	r.check("a value before has the key without it", string(put.PrevKv.Key) == "a", put)
	answer, err := inside.Txn(r.ctx).
		If(clientv3.Compare(clientv3.Value("a"), "=", "3"), clientv3.Compare(clientv3.Version("").WithPrefix(), ">", 0)).
		Then(clientv3.OpGet("a"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("c", "4"), clientv3.OpGet("c")}, nil)).
		Commit()
	r.must("txn", err)
	inner := answer.Responses[1].GetResponseTxn()
	r.check("transactions too, also nested ones", answer.Succeeded &&
		string(answer.Responses[0].GetResponseRange().Kvs[0].Key) == "a" &&
		string(inner.Responses[1].GetResponseRange().Kvs[0].Key) == "c" && r.value(space+"c") == "4", answer)
	held, err := leases.TimeToLive(r.ctx, granted.ID, clientv3.WithAttachedKeys())
	r.must("time to live", err)
	r.check("a lease's keys come without it", len(held.Keys) == 1 && string(held.Keys[0]) == "a", held)
	gone, err := inside.Delete(r.ctx, "", clientv3.WithPrefix(), clientv3.WithPrevKV())
	r.must("delete", err)
	r.check("a deletion of all spares the neighbours", gone.Deleted == 3 && string(gone.PrevKvs[2].Key) == "c" &&
		r.value("go/ns/space") == "neighbour before" && r.value("go/ns/space0") == "neighbour behind", gone)
	var told []string
	for len(told) < 7 {
		response, ok := within(events)
		r.check("events of the namespace come", ok && response.Err() == nil, told, response)
		for _, event := range response.Events {
			told = append(told, event.Type.String()[:1]+string(event.Kv.Key))
		}
	}
	r.check("each event once, without the prefix", strings.Join(told, " ") == "Pa Pb Pa Pc Da Db Dc", told)
}

// leasingCache: the client keeps what it read for as long as it holds a key's lease, and gives it back when asked to.
func leasingCache(r *run) {
	one, closeOne, err := leasing.NewKV(r.client, "go/leasing/")
	r.must("leasing", err)
	defer closeOne()
	other, closeOther, err := leasing.NewKV(r.connect("", ""), "go/leasing/")
	r.must("leasing", err)
	defer closeOther()
	r.put("go/leased", "1")
	got, err := one.Get(r.ctx, "go/leased")
	r.must("get", err)
	r.check("the first takes the key", string(got.Kvs[0].Value) == "1")
	held := r.get("go/leasing/", clientv3.WithPrefix())
	r.check("its claim is stored", held.Count == 1, held)
	ctx, cancel := r.bounded()
	defer cancel()
	_, err = other.Put(ctx, "go/leased", "2")
	r.must("put by the other", err)
	got, err = one.Get(r.ctx, "go/leased")
	r.must("get", err)
	r.check("the other takes it over, and no read is stale", string(got.Kvs[0].Value) == "2", got)
}

// mirrorPrefix: a list in pages at one revision, then the watch from there.
func mirrorPrefix(r *run) {
	const prefix = "go/mirror/"
	for number := range 1200 {
		r.put(prefix+strings.Repeat("x", number%7)+string(rune('a'+number%26)), "v")
	}
	syncer := mirror.NewSyncer(r.client, prefix, 0)
	pages, failed := syncer.SyncBase(r.ctx)
	found := map[string]string{}
	for page := range pages {
		for _, kv := range page.Kvs {
			found[string(kv.Key)] = string(kv.Value)
		}
	}
	r.must("base", <-failed)
	r.check("the base is complete", int64(len(found)) == r.get(prefix, clientv3.WithPrefix()).Count, len(found))
	updates := syncer.SyncUpdates(r.ctx)
	last := r.put(prefix+"late", "v")
	response, ok := within(updates)
	r.check("updates follow", ok && response.Events[0].Kv.ModRevision == last, response)
}
