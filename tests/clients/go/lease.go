package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func lease(r *run) {
	const prefix = "go/lease/"
	granted, err := r.client.Grant(r.ctx, 60)
	r.must("grant", err)
	r.check("a grant gives an id and the time", granted.ID > 0 && granted.TTL == 60, granted)
	r.put(prefix+"b", "v", clientv3.WithLease(granted.ID))
	r.put(prefix+"a", "v", clientv3.WithLease(granted.ID))
	held, err := r.client.TimeToLive(r.ctx, granted.ID, clientv3.WithAttachedKeys())
	r.must("time to live", err)
	names := []string{}
	for _, key := range held.Keys {
		names = append(names, string(key))
	}
	slices.Sort(names)
	r.check("its keys and times are told", held.GrantedTTL == 60 && held.TTL > 50 && held.TTL <= 60 &&
		slices.Equal(names, []string{prefix + "a", prefix + "b"}), held)
	listed, err := r.client.Leases(r.ctx)
	r.must("leases", err)
	r.check("it is in the list", slices.ContainsFunc(listed.Leases, func(each clientv3.LeaseStatus) bool { return each.ID == granted.ID }))
	once, err := r.client.KeepAliveOnce(r.ctx, granted.ID)
	r.must("keep alive once", err)
	r.check("a renewal gives the whole time", once.TTL == 60)
	r.keepAliveOfAShortLease(prefix)
	revoked, err := r.client.Revoke(r.ctx, granted.ID)
	r.must("revoke", err)
	r.check("its keys go with it", r.get(prefix+"a").Count+r.get(prefix+"b").Count == 0, revoked)
	_, err = r.client.KeepAliveOnce(r.ctx, granted.ID)
	r.check("a renewal then finds no lease", errors.Is(err, rpctypes.ErrLeaseNotFound), err)
	ended, err := r.client.TimeToLive(r.ctx, granted.ID)
	r.must("time to live", err)
	r.check("its time is -1", ended.TTL == -1, ended)
}

// keepAliveOfAShortLease: kept well beyond its time, and gone when nobody keeps it.
func (r *run) keepAliveOfAShortLease(prefix string) {
	short, err := r.client.Grant(r.ctx, 2)
	r.must("grant", err)
	r.put(prefix+"short", "v", clientv3.WithLease(short.ID))
	ctx, stop := context.WithCancel(r.ctx)
	renewals, err := r.client.KeepAlive(ctx, short.ID)
	r.must("keep alive", err)
	began := time.Now()
	for time.Since(began) < 5*time.Second {
		response, ok := within(renewals)
		r.check("a lease of two seconds is kept for five", ok && response.TTL == short.TTL, response)
	}
	r.check("and its key", r.value(prefix+"short") == "v")
	expiry := r.client.Watch(r.ctx, prefix+"short", clientv3.WithPrevKV())
	stop()
	gone := r.events(expiry, 1)[0]
	r.check("it runs out when nobody keeps it", gone.Type == clientv3.EventTypeDelete &&
		clientv3.LeaseID(gone.PrevKv.Lease) == short.ID, gone)
}

// session of a client of its own, as another process would have it.
func (r *run) session(ttl int) *concurrency.Session {
	session, err := concurrency.NewSession(r.connect("", ""), concurrency.WithTTL(ttl))
	r.must("session", err)
	return session
}

func mutex(r *run) {
	const name, workers, turns = "go/mutex", 4, 6
	inside, counter := 0, 0
	var group sync.WaitGroup
	var guard sync.Mutex
	failed := make(chan error, workers)
	for range workers {
		session := r.session(30)
		group.Go(func() {
			defer session.Close()
			lock := concurrency.NewMutex(session, name)
			for range turns {
				if err := lock.Lock(r.ctx); err != nil {
					failed <- err
					return
				}
				guard.Lock()
				inside++
				if inside != 1 {
					failed <- fmt.Errorf("%d hold the lock at once", inside)
				}
				guard.Unlock()
				counter++
				guard.Lock()
				inside--
				guard.Unlock()
				if err := lock.Unlock(r.ctx); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-failed:
		r.fail("%v", err)
	default:
	}
	r.check("never two hold the lock, and all have their turns", counter == workers*turns, counter)
	r.lockOfTheDead(name)
}

// lockOfTheDead: TryLock is refused while another holds the lock; a session that ends gives it up.
func (r *run) lockOfTheDead(name string) {
	first, second := r.session(30), r.session(30)
	defer second.Close()
	held, wanted := concurrency.NewMutex(first, name), concurrency.NewMutex(second, name)
	r.must("lock", held.Lock(r.ctx))
	r.check("a try is refused", errors.Is(wanted.TryLock(r.ctx), concurrency.ErrLocked))
	guarded, err := r.client.Txn(r.ctx).If(held.IsOwner()).Then(clientv3.OpPut(name+"-guarded", "v")).Commit()
	r.must("txn", err)
	r.check("a write can ask for ownership", guarded.Succeeded)
	waited := make(chan error, 1)
	go func() { waited <- wanted.Lock(r.ctx) }()
	select {
	case <-waited:
		r.fail("the lock was given to two")
	case <-time.After(200 * time.Millisecond):
	}
	r.must("close", first.Close())
	err, ok := within(waited)
	r.check("the lock of a session that ended goes to who waits", ok && err == nil, err)
	r.must("unlock", wanted.Unlock(r.ctx))
	r.check("nothing is left", r.get(name+"/", clientv3.WithPrefix()).Count == 0)
}

func election(r *run) {
	const name = "go/election"
	one, other := r.session(30), r.session(30)
	defer other.Close()
	ours, theirs := concurrency.NewElection(one, name), concurrency.NewElection(other, name)
	_, err := ours.Leader(r.ctx)
	r.check("nobody leads at first", errors.Is(err, concurrency.ErrElectionNoLeader), err)
	observed := theirs.Observe(r.ctx)
	r.must("campaign", ours.Campaign(r.ctx, "one"))
	r.observes(observed, "one")
	won := make(chan error, 1)
	go func() { won <- theirs.Campaign(r.ctx, "two") }()
	r.must("proclaim", ours.Proclaim(r.ctx, "one again"))
	r.observes(observed, "one again")
	leader, err := theirs.Leader(r.ctx)
	r.must("leader", err)
	r.check("the leader is known", string(leader.Kvs[0].Key) == ours.Key() && string(leader.Kvs[0].Value) == "one again")
	resumed := concurrency.ResumeElection(one, name, ours.Key(), ours.Rev())
	r.must("resign", resumed.Resign(r.ctx))
	err, ok := within(won)
	r.check("who waited leads", ok && err == nil, err)
	r.observes(observed, "two")
	r.check("who resigned cannot proclaim", errors.Is(ours.Proclaim(r.ctx, "late"), concurrency.ErrElectionNotLeader))
	go func() { won <- ours.Campaign(r.ctx, "three") }()
	r.must("revoke", revoke(r, other.Lease()))
	err, ok = within(won)
	r.check("a session that ended leads no longer", ok && err == nil, err)
	r.must("close", one.Close())
}

func revoke(r *run, id clientv3.LeaseID) error {
	_, err := r.client.Revoke(r.ctx, id)
	return err
}

func (r *run) observes(observed <-chan clientv3.GetResponse, value string) {
	response, ok := within(observed)
	r.check("the observer sees "+value, ok && string(response.Kvs[0].Value) == value, response)
}

// softwareTransactions: money moves between accounts at once; none is made or lost, at either strict isolation level.
func softwareTransactions(r *run) {
	const prefix, accounts, workers, transfers, each = "go/stm/", 5, 4, 25, 100
	for number := range accounts {
		r.put(prefix+strconv.Itoa(number), strconv.Itoa(each))
	}
	levels := []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable}
	for _, level := range levels {
		failed := make(chan error, workers)
		for worker := range workers {
			go func() { failed <- r.transfer(prefix, accounts, transfers, worker, level) }()
		}
		for range workers {
			r.must("transfer", <-failed)
		}
		total := 0
		for _, kv := range r.get(prefix, clientv3.WithPrefix()).Kvs {
			amount, err := strconv.Atoi(string(kv.Value))
			r.must("amount", err)
			total += amount
		}
		r.check(fmt.Sprintf("nothing is lost at level %d", level), total == accounts*each, total)
	}
	refused := errors.New("no")
	_, err := concurrency.NewSTM(r.client, func(stm concurrency.STM) error {
		stm.Put(prefix+"0", "-1")
		return refused
	})
	r.check("a transaction that says no changes nothing", errors.Is(err, refused) && r.value(prefix+"0") != "-1", err)
}

func (r *run) transfer(prefix string, accounts, transfers, seed int, level concurrency.Isolation) error {
	for turn := range transfers {
		from, to := (seed+turn)%accounts, (seed+2*turn+1)%accounts
		if from == to {
			continue
		}
		_, err := concurrency.NewSTM(r.client, func(stm concurrency.STM) error {
			source, target := prefix+strconv.Itoa(from), prefix+strconv.Itoa(to)
			have, err := strconv.Atoi(stm.Get(source))
			if err != nil {
				return err
			}
			had, err := strconv.Atoi(stm.Get(target))
			if err != nil {
				return err
			}
			stm.Put(source, strconv.Itoa(have-1))
			stm.Put(target, strconv.Itoa(had+1))
			return nil
		}, concurrency.WithIsolation(level), concurrency.WithAbortContext(r.ctx))
		if err != nil {
			return err
		}
	}
	return nil
}
