package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
)

func maintenance(r *run) {
	const key = "go/maintenance"
	r.put(key, strings.Repeat("x", 10_000))
	endpoint := r.endpoints[0]
	status, err := r.client.Status(r.ctx, endpoint)
	r.must("status", err)
	members, err := r.client.MemberList(r.ctx)
	r.must("members", err)
	r.check("status and members agree", status.Leader == members.Members[0].ID && len(members.Members) == 1, status)
	r.check("sizes and version are told", status.DbSize > 0 && status.DbSizeInUse > 0 && strings.HasPrefix(status.Version, "3."))
	hash, err := r.client.HashKV(r.ctx, endpoint, 0)
	r.must("hash", err)
	again, err := r.client.HashKV(r.ctx, endpoint, hash.Header.Revision)
	r.must("hash", err)
	r.check("the hash of a revision stays", hash.Hash == again.Hash, hash, again)
	alarms, err := r.client.AlarmList(r.ctx)
	r.must("alarms", err)
	r.check("no alarms", len(alarms.Alarms) == 0)
	snapshot, err := r.client.SnapshotWithVersion(r.ctx)
	r.must("snapshot", err)
	defer snapshot.Snapshot.Close()
	content, err := io.ReadAll(snapshot.Snapshot)
	r.must("read the snapshot", err)
	data, sum := content[:len(content)-sha256.Size], content[len(content)-sha256.Size:]
	expected := sha256.Sum256(data)
	r.check("a snapshot ends with its checksum", len(data)%512 == 0 && bytes.Equal(expected[:], sum), len(content))
	_, err = r.client.Defragment(r.ctx, endpoint)
	r.must("defragment", err)
	r.check("what was stored is there after a defragmentation", len(r.value(key)) == 10_000)
	_, err = r.client.MoveLeader(r.ctx, 0x7777)
	r.check("nobody to move the leadership to", errors.Is(err, rpctypes.ErrBadLeaderTransferee), err)
}

// errorTexts: clientv3 knows a refusal by its text alone, and turns it into a value that programs compare with.
func errorTexts(r *run) {
	const prefix = "go/errors/"
	key := prefix + "key"
	old := r.put(key, "1")
	now := r.put(key, "2")
	_, err := r.client.Compact(r.ctx, now)
	r.must("compact", err)
	granted, err := r.client.Grant(r.ctx, 60)
	r.must("grant", err)
	members, err := r.client.MemberList(r.ctx)
	r.must("members", err)
	many := make([]clientv3.Op, 129)
	for number := range many {
		many[number] = clientv3.OpGet(key)
	}
	for _, row := range []struct {
		expected error
		call     func(context.Context) error
	}{
		{rpctypes.ErrEmptyKey, func(ctx context.Context) error { _, err := r.client.Put(ctx, "", "v"); return err }},
		{rpctypes.ErrCompacted, func(ctx context.Context) error { _, err := r.client.Get(ctx, key, clientv3.WithRev(old)); return err }},
		{rpctypes.ErrFutureRev, func(ctx context.Context) error {
			_, err := r.client.Get(ctx, key, clientv3.WithRev(now+1_000_000))
			return err
		}},
		{rpctypes.ErrCompacted, func(ctx context.Context) error { _, err := r.client.Compact(ctx, now); return err }},
		{rpctypes.ErrFutureRev, func(ctx context.Context) error { _, err := r.client.Compact(ctx, now+1_000_000); return err }},
		{rpctypes.ErrKeyNotFound, func(ctx context.Context) error {
			_, err := r.client.Put(ctx, prefix+"none", "", clientv3.WithIgnoreValue())
			return err
		}},
		{rpctypes.ErrLeaseNotFound, func(ctx context.Context) error {
			_, err := r.client.Put(ctx, key, "v", clientv3.WithLease(77))
			return err
		}},
		{rpctypes.ErrLeaseNotFound, func(ctx context.Context) error { _, err := r.client.Revoke(ctx, 77); return err }},
		{rpctypes.ErrLeaseTTLTooLarge, func(ctx context.Context) error { _, err := r.client.Grant(ctx, 9_000_000_001); return err }},
		{rpctypes.ErrTooManyOps, func(ctx context.Context) error { _, err := r.client.Txn(ctx).Then(many...).Commit(); return err }},
		{rpctypes.ErrDuplicateKey, func(ctx context.Context) error {
			_, err := r.client.Txn(ctx).Then(clientv3.OpPut(key, "1"), clientv3.OpPut(key, "2")).Commit()
			return err
		}},
		{rpctypes.ErrRequestTooLarge, func(ctx context.Context) error {
			_, err := r.client.Put(ctx, key, strings.Repeat("x", 1_700_000))
			return err
		}},
		{rpctypes.ErrMemberNotFound, func(ctx context.Context) error { _, err := r.client.MemberRemove(ctx, 77); return err }},
		{rpctypes.ErrPeerURLExist, func(ctx context.Context) error {
			_, err := r.client.MemberAdd(ctx, members.Members[0].PeerURLs)
			return err
		}},
	} {
		err := row.call(r.ctx)
		r.check(row.expected.Error(), err == row.expected, err)
	}
	r.check("the refused changed nothing", r.value(key) == "2" && r.get(key).Kvs[0].ModRevision == now, granted)
}

// kubernetesClient: the typed client of newer apiservers.
func kubernetesClient(r *run) {
	client, err := kubernetes.New(clientv3.Config{Endpoints: r.endpoints, Context: r.ctx, Logger: zap.NewNop()})
	r.must("connect", err)
	defer client.Close()
	const prefix = "/registry/go/"
	store := client.Kubernetes
	created, err := store.OptimisticPut(r.ctx, prefix+"a", []byte("1"), 0, kubernetes.PutOptions{GetOnFailure: true})
	r.must("create", err)
	r.check("a creation gives its revision", created.Succeeded && created.Revision > 0 && created.KV == nil, created)
	twice, err := store.OptimisticPut(r.ctx, prefix+"a", []byte("2"), 0, kubernetes.PutOptions{GetOnFailure: true})
	r.must("create", err)
	r.check("a second one gives what is there", !twice.Succeeded && string(twice.KV.Value) == "1", twice)
	blind, err := store.OptimisticPut(r.ctx, prefix+"a", []byte("2"), 0, kubernetes.PutOptions{})
	r.must("create", err)
	r.check("or nothing", !blind.Succeeded && blind.KV == nil, blind)
	updated, err := store.OptimisticPut(r.ctx, prefix+"a", []byte("2"), created.Revision, kubernetes.PutOptions{})
	r.must("update", err)
	r.check("an update", updated.Succeeded && updated.Revision > created.Revision, updated)
	for _, name := range []string{"b", "c"} {
		_, err = store.OptimisticPut(r.ctx, prefix+name, []byte("1"), 0, kubernetes.PutOptions{})
		r.must("create", err)
	}
	got, err := store.Get(r.ctx, prefix+"a", kubernetes.GetOptions{Revision: created.Revision})
	r.must("get", err)
	r.check("a get at a revision", string(got.KV.Value) == "1", got)
	page, err := store.List(r.ctx, prefix, kubernetes.ListOptions{Limit: 2})
	r.must("list", err)
	r.check("a page and how many there are", len(page.Kvs) == 2 && page.Count == 3, page)
	rest, err := store.List(r.ctx, prefix, kubernetes.ListOptions{Revision: page.Revision, Continue: prefix + "b\x00"})
	r.must("list", err)
	r.check("the next page", len(rest.Kvs) == 1 && string(rest.Kvs[0].Key) == prefix+"c" && rest.Count == 1, rest)
	stale, err := store.OptimisticDelete(r.ctx, prefix+"a", created.Revision, kubernetes.DeleteOptions{GetOnFailure: true})
	r.must("delete", err)
	r.check("a deletion of what has changed", !stale.Succeeded && string(stale.KV.Value) == "2", stale)
	deleted, err := store.OptimisticDelete(r.ctx, prefix+"a", updated.Revision, kubernetes.DeleteOptions{})
	r.must("delete", err)
	count, err := store.Count(r.ctx, prefix, kubernetes.CountOptions{})
	r.must("count", err)
	r.check("a deletion", deleted.Succeeded && deleted.Revision > updated.Revision && count == 2, deleted, count)
}

// auth: users with roles, on a server of its own. Its simple tokens live for about a second.
func auth(r *run) {
	_, err := r.client.AuthEnable(r.ctx)
	r.check("no authentication without root", errors.Is(err, rpctypes.ErrRootUserNotExist), err)
	_, err = r.client.UserAdd(r.ctx, "root", "rootpw")
	r.must("user add", err)
	_, err = r.client.UserGrantRole(r.ctx, "root", "root")
	r.must("grant", err)
	_, err = r.client.RoleAdd(r.ctx, "apps")
	r.must("role add", err)
	_, err = r.client.RoleGrantPermission(r.ctx, "apps", "app/", clientv3.GetPrefixRangeEnd("app/"), clientv3.PermissionType(clientv3.PermReadWrite))
	r.must("grant permission", err)
	_, err = r.client.UserAdd(r.ctx, "alice", "alicepw")
	r.must("user add", err)
	_, err = r.client.UserGrantRole(r.ctx, "alice", "apps")
	r.must("grant", err)
	r.put("other/a", "v")
	_, err = r.client.AuthEnable(r.ctx)
	r.must("enable", err)
	_, err = r.client.Get(r.ctx, "app/a")
	r.check("nobody reads without a name", errors.Is(err, rpctypes.ErrUserEmpty), err)
	_, err = r.dial("alice", "wrong")
	r.check("a wrong password", err != nil && errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed), err)
	root, alice := r.connect("root", "rootpw"), r.connect("alice", "alicepw")
	defer root.Close()
	defer alice.Close()
	_, err = alice.Put(r.ctx, "app/a", "1")
	r.must("put by alice", err)
	for what, call := range map[string]func() error{
		"a read elsewhere":  func() error { _, err := alice.Get(r.ctx, "other/a"); return err },
		"a write elsewhere": func() error { _, err := alice.Put(r.ctx, "other/a", "v"); return err },
		"a read beyond the prefix": func() error {
			_, err := alice.Get(r.ctx, "app/", clientv3.WithFromKey())
			return err
		},
		"a transaction that reads elsewhere": func() error {
			_, err := alice.Txn(r.ctx).Then(clientv3.OpPut("app/a", "2"), clientv3.OpGet("other/a")).Commit()
			return err
		},
		"administration": func() error { _, err := alice.UserList(r.ctx); return err },
	} {
		err := call()
		r.check(what+" is not allowed", errors.Is(err, rpctypes.ErrPermissionDenied), err)
	}
	refused, ok := within(alice.Watch(r.ctx, "other/", clientv3.WithPrefix()))
	r.check("a watch elsewhere is not allowed", ok && refused.Canceled, refused)
	r.tokens(root, alice)
	_, err = root.AuthDisable(r.ctx)
	r.must("disable", err)
	r.check("without authentication everybody reads", r.value("other/a") == "v")
}

// tokens: one that has run out, or is of an older state of the users, is replaced by the client without anybody noticing.
func (r *run) tokens(root, alice *clientv3.Client) {
	events := alice.Watch(r.ctx, "app/", clientv3.WithPrefix())
	time.Sleep(4 * time.Second)
	_, err := alice.Put(r.ctx, "app/a", "after the token ran out")
	r.must("put with a token that has run out", err)
	r.check("a token that ran out is replaced", len(r.events(events, 1)) == 1)
	_, err = root.UserAdd(r.ctx, "bob", "bobpw")
	r.must("user add", err)
	_, err = root.UserChangePassword(r.ctx, "bob", "newpw")
	r.must("change password", err)
	_, err = alice.Put(r.ctx, "app/a", "after the users changed")
	r.must("put with a token of older users", err)
	r.check("a change of the users is not noticed by others", len(r.events(events, 1)) == 1)
	bob := r.connect("bob", "newpw")
	defer bob.Close()
	_, err = bob.Get(r.ctx, "app/a")
	r.check("a user without a role reads nothing", errors.Is(err, rpctypes.ErrPermissionDenied), err)
	_, err = root.UserGrantRole(r.ctx, "bob", "apps")
	r.must("grant", err)
	got, err := bob.Get(r.ctx, "app/a")
	r.must("get by bob", err)
	r.check("with a role it does", got.Count == 1)
	_, err = root.UserDelete(r.ctx, "bob")
	r.must("user delete", err)
	_, err = bob.Get(r.ctx, "app/a")
	r.check("a user that was deleted reads nothing", err != nil, err)
	status, err := root.AuthStatus(r.ctx)
	r.must("auth status", err)
	r.check("the status counts the changes", status.Enabled && status.AuthRevision > 5, status)
	users, err := root.UserList(r.ctx)
	r.must("users", err)
	r.check("the users are listed", strings.Join(users.Users, " ") == "alice root", users)
}
