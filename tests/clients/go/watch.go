package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func watch(r *run) {
	const prefix = "go/watch/"
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(r.ctx))
	defer cancel()
	start := r.put(prefix+"before", "0")
	live := r.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	created, ok := within(live)
	r.check("the creation is told", ok && created.Created && created.Header.Revision >= start, created)
	history := r.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(start))
	deletes := r.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithFilterPut())
	puts := r.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithFilterDelete(), clientv3.WithFragment())
	r.put(prefix+"a", "1")
	r.put("go/elsewhere", "unseen")
	r.put(prefix+"a", "2")
	_, err := r.client.Delete(r.ctx, prefix+"a")
	r.must("delete", err)
	seen := r.events(live, 3)
	r.check("events come in order", told(seen) == "P1 P2 D", told(seen))
	r.check("with the values before", seen[0].PrevKv == nil && string(seen[1].PrevKv.Value) == "1" &&
		string(seen[2].PrevKv.Value) == "2", seen)
	r.check("an event knows whether it creates", seen[0].IsCreate() && seen[1].IsModify() && !seen[2].IsCreate())
	r.check("history, then what is new", told(r.events(history, 4)) == "P0 P1 P2 D")
	r.check("deletions only", told(r.events(deletes, 1)) == "D")
	r.check("puts only", told(r.events(puts, 2)) == "P1 P2")
	r.progress(ctx, live)
	r.compactedWatch(prefix)
	own, stop := context.WithCancel(ctx)
	ending := r.client.Watch(own, prefix)
	stop()
	_, open := within(ending)
	r.check("a cancelled watch is closed", !open)
}

// progress: the client asks, and the answer comes to every watch of the stream.
func (r *run) progress(ctx context.Context, live clientv3.WatchChan) {
	written := r.put("go/elsewhere", "again")
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		r.must("request progress", r.client.RequestProgress(ctx))
		select {
		case response := <-live:
			if response.IsProgressNotify() && response.Header.Revision >= written {
				r.check("progress is told when asked for", true)
				return
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	r.fail("progress was not told within %s", patience)
}

func (r *run) compactedWatch(prefix string) {
	old := r.put(prefix+"compact", "1")
	now := r.put(prefix+"compact", "2")
	_, err := r.client.Compact(r.ctx, now, clientv3.WithCompactPhysical())
	r.must("compact", err)
	response, ok := within(r.client.Watch(r.ctx, prefix+"compact", clientv3.WithRev(old)))
	r.check("a watch of compacted history ends and says from where there is some", ok && response.Canceled &&
		response.CompactRevision == now && response.Err() == rpctypes.ErrCompacted, response)
}

// events waits for so many events of a watch.
func (r *run) events(channel clientv3.WatchChan, count int) []*clientv3.Event {
	var found []*clientv3.Event
	for len(found) < count {
		response, ok := within(channel)
		if !ok || response.Err() != nil {
			r.fail("%d events, then the watch ended or was silent: %v", len(found), response.Err())
		}
		found = append(found, response.Events...)
	}
	return found
}

func told(events []*clientv3.Event) string {
	words := make([]string, len(events))
	for place, event := range events {
		words[place] = event.Type.String()[:1] + string(event.Kv.Value)
	}
	return strings.Join(words, " ")
}

// watchReconnect: the server goes away and comes back. Watches and leases of the client live through it.
func watchReconnect(r *run) {
	const prefix = "go/reconnect/"
	granted, err := r.client.Grant(r.ctx, 60)
	r.must("grant", err)
	r.put(prefix+"held", "v", clientv3.WithLease(granted.ID))
	renewals, err := r.client.KeepAlive(r.ctx, granted.ID)
	r.must("keep alive", err)
	_, ok := within(renewals)
	r.check("the lease is kept before", ok)
	synced := r.client.Watch(r.ctx, prefix+"n", clientv3.WithPrefix(), clientv3.WithPrevKV())
	quiet := r.client.Watch(r.ctx, prefix+"quiet")
	for number := range 20 {
		r.put(fmt.Sprintf("%sn%03d", prefix, number), "v")
	}
	before := r.events(synced, 10)
	for _, step := range []string{"stop", "start"} {
		r.step(step)
	}
	for number := 20; number < 40; number++ {
		r.putAgain(fmt.Sprintf("%sn%03d", prefix, number))
	}
	all := append(before, r.events(synced, 40-len(before))...)
	r.check("every event once and in order, over the restart", inOrder(all, prefix, 40), len(all))
	r.putAgain(prefix + "quiet")
	r.check("a watch that had seen nothing lives on", len(r.events(quiet, 1)) == 1)
	renewed := false
	for deadline := time.Now().Add(2 * patience); !renewed && time.Now().Before(deadline); {
		once, err := r.client.KeepAliveOnce(r.ctx, granted.ID)
		renewed = err == nil && once.TTL == 60
	}
	r.check("the lease is kept afterwards", renewed)
	r.check("its key is there", r.value(prefix+"held") == "v")
	select {
	case _, open := <-renewals:
		r.check("the keep-alive channel is open", open)
	default:
	}
}

// inOrder: n000, n001, ... each once, in the order of revisions.
func inOrder(events []*clientv3.Event, prefix string, count int) bool {
	var revision int64
	for place, event := range events {
		if event.Type != mvccpb.PUT || string(event.Kv.Key) != fmt.Sprintf("%sn%03d", prefix, place) ||
			event.Kv.ModRevision <= revision {
			return false
		}
		revision = event.Kv.ModRevision
	}
	return len(events) == count
}

// putAgain creates a key, and tries again while the outcome is not known. A create is done once, however often it is tried.
func (r *run) putAgain(key string) {
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
		_, err := r.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, "v")).Commit()
		cancel()
		if err == nil {
			return
		}
		if !passing(err) || time.Now().After(deadline) {
			r.fail("put %s: %v", key, err)
		}
	}
}

// passing: errors that an outage explains.
func passing(err error) bool {
	if err == context.DeadlineExceeded || err == rpctypes.ErrLeaderChanged || err == rpctypes.ErrNoLeader {
		return true
	}
	code := status.Code(err)
	if etcd, ok := err.(rpctypes.EtcdError); ok {
		code = etcd.Code()
	}
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// failover: three members, the leader dies; the client goes to those that live, and misses nothing.
func failover(r *run) {
	const prefix = "go/failover/"
	synced := r.client.Watch(clientv3.WithRequireLeader(r.ctx), prefix+"n", clientv3.WithPrefix())
	granted, err := r.client.Grant(r.ctx, 30)
	r.must("grant", err)
	renewals, err := r.client.KeepAlive(r.ctx, granted.ID)
	r.must("keep alive", err)
	for number := range 20 {
		r.putAgain(fmt.Sprintf("%sn%03d", prefix, number))
	}
	r.check("twenty events before", inOrder(r.events(synced, 20), prefix, 20))
	r.step("kill the leader")
	for number := 20; number < 40; number++ {
		r.putAgain(fmt.Sprintf("%sn%03d", prefix, number))
	}
	// A watch that requires a leader may have ended for want of one (G-21); as any program does, watch again from there.
	again := r.client.Watch(r.ctx, prefix+"n", clientv3.WithPrefix(), clientv3.WithRev(1))
	r.check("all events once and in order, from another member", inOrder(r.events(again, 40), prefix, 40))
	for number := range 40 {
		r.check("a linearizable read finds every key", r.value(fmt.Sprintf("%sn%03d", prefix, number)) == "v", number)
	}
	r.step("start it again")
	for deadline := time.Now().Add(patience); ; {
		response, ok := within(renewals)
		if ok && response.TTL == 30 {
			break
		}
		if !ok || time.Now().After(deadline) {
			r.fail("the lease was not kept")
		}
	}
	r.check("the lease was kept alive", true)
	members, err := r.client.MemberList(r.ctx)
	r.must("members", err)
	r.check("three members", len(members.Members) == 3)
	r.must("sync", r.client.Sync(r.ctx))
	r.check("the client learns the endpoints", len(r.client.Endpoints()) == 3, r.client.Endpoints())
}
