import static java.nio.charset.StandardCharsets.UTF_8;

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.auth.Permission;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.election.NoLeaderException;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import io.grpc.stub.StreamObserver;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;

/**
 * The calls of Java programs, made with jetcd; every answer is checked.
 *
 * <p>java Clients SCENARIO HOST:PORT. It ends with one line of JSON on standard output: the scenario, the client's version,
 * what was checked. The first check that fails ends it with exit code 1 and the reason on standard error. A scenario that
 * needs something done to the server asks for it with a line {"step": ...} and goes on when a line comes back.
 */
public final class Clients {
  private static final long PATIENCE_S = 20;

  private interface Scenario {
    void play(Clients run) throws Exception;
  }

  private static final Map<String, Scenario> SCENARIOS =
      Map.of(
          "kv", Clients::kv,
          "transactions", Clients::transactions,
          "watches", Clients::watches,
          "leases", Clients::leases,
          "locks", Clients::locks,
          "elections", Clients::elections,
          "maintenance", Clients::maintenance,
          "users", Clients::users,
          "reconnect", Clients::reconnect);

  private final String endpoint;
  private final Client client;
  private final List<String> checked = new ArrayList<>();
  private final BufferedReader input = new BufferedReader(new InputStreamReader(System.in, UTF_8));

  private Clients(String endpoint) {
    this.endpoint = "http://" + endpoint;
    this.client = connect(null);
  }

  public static void main(String[] arguments) {
    if (arguments.length != 2 || !SCENARIOS.containsKey(arguments[0])) {
      System.err.println("usage: Clients SCENARIO HOST:PORT; scenarios: " + SCENARIOS.keySet());
      System.exit(2);
    }
    bound(arguments[0]);
    Clients run = new Clients(arguments[1]);
    try {
      SCENARIOS.get(arguments[0]).play(run);
    } catch (Throwable failure) {
      failure.printStackTrace();
      System.err.println("checked before: " + run.checked);
      System.exit(1);
    }
    String found = run.checked.stream().map(what -> '"' + what + '"').collect(Collectors.joining(", "));
    System.out.printf(
        "{\"scenario\": \"%s\", \"client\": \"jetcd %s\", \"checked\": [%s]}%n",
        arguments[0], System.getProperty("jetcd.version"), found);
    System.exit(0);
  }

  private static void bound(String scenario) {
    Thread limit =
        new Thread(
            () -> {
              try {
                TimeUnit.SECONDS.sleep(90);
              } catch (InterruptedException never) {
                return;
              }
              System.err.println(scenario + ": not done within 90 s");
              System.exit(1);
            });
    limit.setDaemon(true);
    limit.start();
  }

  // what every scenario needs

  private Client connect(String user) {
    var builder = Client.builder().endpoints(endpoint);
    return user == null ? builder.build() : builder.user(bytes(user)).password(bytes(user + "pw")).build();
  }

  private static ByteSequence bytes(String text) {
    return ByteSequence.from(text, UTF_8);
  }

  private static <T> T get(CompletableFuture<T> future) throws Exception {
    return future.get(PATIENCE_S, TimeUnit.SECONDS);
  }

  private void check(String what, Object seen, Object expected) {
    if (!seen.equals(expected)) {
      throw new AssertionError(what + ": " + seen + ", not " + expected);
    }
    checked.add(what);
  }

  private void refused(String what, CompletableFuture<?> call, String text) throws Exception {
    try {
      get(call);
    } catch (ExecutionException refusal) {
      check(what, String.valueOf(refusal.getMessage()).contains(text) ? text : refusal.getMessage(), text);
      return;
    }
    throw new AssertionError(what + ": it was not refused");
  }

  private void step(String what) throws Exception {
    System.out.printf("{\"step\": \"%s\"}%n", what);
    System.out.flush();
    if (input.readLine() == null) {
      throw new AssertionError("nobody did: " + what);
    }
  }

  private long put(String key, String value) throws Exception {
    return get(client.getKVClient().put(bytes(key), bytes(value))).getHeader().getRevision();
  }

  private String value(String key) throws Exception {
    GetResponse answer = get(client.getKVClient().get(bytes(key)));
    return answer.getKvs().isEmpty() ? "(none)" : answer.getKvs().get(0).getValue().toString();
  }

  private static String keys(GetResponse answer) {
    return answer.getKvs().stream().map(kv -> kv.getKey().toString()).collect(Collectors.joining(" "));
  }

  /** The next events, as words: P or D, and the value or the value before. */
  private static String told(BlockingQueue<WatchEvent> events, int count) throws Exception {
    List<String> words = new ArrayList<>();
    while (words.size() < count) {
      WatchEvent event = events.poll(PATIENCE_S, TimeUnit.SECONDS);
      if (event == null) {
        throw new AssertionError("waited in vain for event " + count + " after " + words);
      }
      boolean put = event.getEventType() == WatchEvent.EventType.PUT;
      words.add(put ? "P" + event.getKeyValue().getValue() : "D" + event.getPrevKV().getValue());
    }
    return String.join(" ", words);
  }

  private static Watch.Watcher watch(
      Client client, String key, WatchOption option, BlockingQueue<WatchEvent> events) throws Exception {
    CompletableFuture<Boolean> created = new CompletableFuture<>();
    Watch.Watcher watcher =
        client.getWatchClient()
            .watch(
                bytes(key),
                option,
                response -> {
                  if (response.isCreatedNotify()) {
                    created.complete(true);
                  }
                  events.addAll(response.getEvents());
                },
                failure -> created.completeExceptionally(failure));
    get(created);
    return watcher;
  }

  private static WatchOption.Builder prefix() {
    return WatchOption.builder().isPrefix(true).withPrevKV(true).withCreateNotify(true);
  }

  // scenarios

  private void kv() throws Exception {
    var kv = client.getKVClient();
    long first = put("java/kv/a", "1");
    var again = get(kv.put(bytes("java/kv/a"), bytes("2"), PutOption.builder().withPrevKV().build()));
    check("the value before", again.getPrevKv().getValue().toString(), "1");
    check("the next revision", again.getHeader().getRevision(), first + 1);
    check("a value", value("java/kv/a"), "2");
    check("nothing", value("java/kv/none"), "(none)");
    var old = get(kv.get(bytes("java/kv/a"), GetOption.builder().withRevision(first).build()));
    check("an old revision", old.getKvs().get(0).getValue().toString(), "1");
    put("java/kv/c", "c");
    put("java/kv/b", "b");
    var down = GetOption.builder().isPrefix(true).withSortField(GetOption.SortTarget.KEY);
    var page = get(kv.get(bytes("java/kv/"), down.withSortOrder(GetOption.SortOrder.DESCEND).withLimit(2).build()));
    check("a page, sorted downwards", keys(page), "java/kv/c java/kv/b");
    check("how many there are", List.of(page.getCount(), page.isMore()), List.of(3L, true));
    var gone = DeleteOption.builder().isPrefix(true).withPrevKV(true).build();
    check("what a deletion deletes", get(kv.delete(bytes("java/kv/"), gone)).getPrevKvs().size(), 3);
    refused("an empty key", kv.put(bytes(""), bytes("v")), "etcdserver: key is not provided");
    refused(
        "a future revision",
        kv.get(bytes("java/kv/a"), GetOption.builder().withRevision(1_000_000_000).build()),
        "etcdserver: mvcc: required revision is a future revision");
    get(kv.compact(put("java/kv/a", "3")));
    refused(
        "a compacted revision",
        kv.get(bytes("java/kv/a"), GetOption.builder().withRevision(first).build()),
        "etcdserver: mvcc: required revision has been compacted");
  }

  private void transactions() throws Exception {
    ByteSequence key = bytes("java/txn/a");
    put("java/txn/a", "old");
    TxnResponse won =
        get(
            client.getKVClient().txn()
                .If(new Cmp(key, Cmp.Op.EQUAL, CmpTarget.value(bytes("old"))),
                    new Cmp(bytes("java/txn/b"), Cmp.Op.EQUAL, CmpTarget.version(0)))
                .Then(Op.put(key, bytes("new"), PutOption.DEFAULT), Op.get(key, GetOption.DEFAULT))
                .commit());
    check("the comparisons hold", won.isSucceeded(), true);
    check("it reads its own writes", won.getGetResponses().get(0).getKvs().get(0).getValue().toString(), "new");
    TxnResponse lost =
        get(
            client.getKVClient().txn()
                .If(new Cmp(key, Cmp.Op.LESS, CmpTarget.modRevision(2)))
                .Then(Op.delete(key, DeleteOption.DEFAULT))
                .Else(Op.get(key, GetOption.DEFAULT))
                .commit());
    check("the other branch", lost.isSucceeded(), false);
    check("gives what is there", lost.getGetResponses().get(0).getKvs().get(0).getValue().toString(), "new");
  }

  private void watches() throws Exception {
    long start = put("java/watch/before", "0");
    BlockingQueue<WatchEvent> live = new LinkedBlockingQueue<>();
    BlockingQueue<WatchEvent> history = new LinkedBlockingQueue<>();
    BlockingQueue<WatchEvent> puts = new LinkedBlockingQueue<>();
    Watch.Watcher first = watch(client, "java/watch/", prefix().build(), live);
    watch(client, "java/watch/", prefix().withRevision(start).build(), history);
    watch(client, "java/watch/", prefix().withNoDelete(true).build(), puts);
    put("java/watch/a", "1");
    put("java/elsewhere", "unseen");
    put("java/watch/a", "2");
    get(client.getKVClient().delete(bytes("java/watch/a")));
    put("java/watch/a", "3");
    check("live, with the values before", told(live, 4), "P1 P2 D2 P3");
    check("from history", told(history, 5), "P0 P1 P2 D2 P3");
    check("puts only", told(puts, 3), "P1 P2 P3");
    first.close();
    put("java/watch/a", "4");
    check("the others are told", told(history, 1), "P4");
    check("a watch that was closed is not", live.isEmpty(), true);
  }

  private void leases() throws Exception {
    var leases = client.getLeaseClient();
    long id = get(leases.grant(60)).getID();
    get(client.getKVClient().put(bytes("java/lease/a"), bytes("v"), PutOption.builder().withLeaseId(id).build()));
    var held = get(leases.timeToLive(id, LeaseOption.builder().withAttachedKeys().build()));
    check("its key is told", held.getKeys(), List.of(bytes("java/lease/a")));
    check("a renewal", get(leases.keepAliveOnce(id)).getTTL(), 60L);
    get(leases.revoke(id));
    check("its key goes with it", value("java/lease/a"), "(none)");
    refused("a second revocation", leases.revoke(id), "etcdserver: requested lease not found");
    long brief = get(leases.grant(2)).getID();
    get(client.getKVClient().put(bytes("java/lease/b"), bytes("v"), PutOption.builder().withLeaseId(brief).build()));
    AtomicInteger renewals = new AtomicInteger();
    var keeping = leases.keepAlive(brief, counting(renewals));
    TimeUnit.SECONDS.sleep(5);
    check("a lease of two seconds is kept for five", value("java/lease/b"), "v");
    check("by renewals", renewals.get() > 1, true);
    BlockingQueue<WatchEvent> events = new LinkedBlockingQueue<>();
    watch(client, "java/lease/b", prefix().build(), events);
    keeping.close();
    check("it runs out when nobody keeps it", told(events, 1), "Dv");
  }

  private static StreamObserver<LeaseKeepAliveResponse> counting(AtomicInteger renewals) {
    return new StreamObserver<>() {
      @Override
      public void onNext(LeaseKeepAliveResponse response) {
        renewals.incrementAndGet();
      }

      @Override
      public void onError(Throwable failure) {}

      @Override
      public void onCompleted() {}
    };
  }

  /** With the server's Lock service. */
  private void locks() throws Exception {
    var locks = client.getLockClient();
    long one = get(client.getLeaseClient().grant(60)).getID();
    long two = get(client.getLeaseClient().grant(60)).getID();
    ByteSequence held = get(locks.lock(bytes("java/lock"), one)).getKey();
    check("the key is the name and the lease", held.toString(), "java/lock/" + Long.toHexString(one));
    check("the holder may lock again", get(locks.lock(bytes("java/lock"), one)).getKey(), held);
    var waiting = locks.lock(bytes("java/lock"), two);
    try {
      waiting.get(300, TimeUnit.MILLISECONDS);
      throw new AssertionError("the lock was given to two");
    } catch (TimeoutException expected) {
      checked.add("another waits");
    }
    get(locks.unlock(held));
    check("until it is given back", get(waiting).getKey().toString(), "java/lock/" + Long.toHexString(two));
    get(client.getLeaseClient().revoke(two));
    get(locks.lock(bytes("java/lock"), one));
    checked.add("or its holder's lease is revoked");
  }

  /** With the server's Election service. */
  private void elections() throws Exception {
    Election election = client.getElectionClient();
    ByteSequence seat = bytes("java-seat");
    try {
      get(election.leader(seat));
      throw new AssertionError("somebody led at first");
    } catch (ExecutionException refusal) {
      check("nobody leads at first", refusal.getCause() instanceof NoLeaderException, true);
    }
    BlockingQueue<String> seen = new LinkedBlockingQueue<>();
    election.observe(seat, observer(seen));
    long one = get(client.getLeaseClient().grant(60)).getID();
    long two = get(client.getLeaseClient().grant(60)).getID();
    var won = get(election.campaign(seat, one, bytes("one")));
    check("the observer sees who leads", seen.poll(PATIENCE_S, TimeUnit.SECONDS), "one");
    var waiting = election.campaign(seat, two, bytes("two"));
    get(election.proclaim(won.getLeader(), bytes("one again")));
    check("the observer sees what is proclaimed", seen.poll(PATIENCE_S, TimeUnit.SECONDS), "one again");
    check("the leader is told", get(election.leader(seat)).getKv().getValue().toString(), "one again");
    check("the other waits", waiting.isDone(), false);
    get(election.resign(won.getLeader()));
    get(waiting);
    check("until the first resigns", seen.poll(PATIENCE_S, TimeUnit.SECONDS), "two");
  }

  private static Election.Listener observer(BlockingQueue<String> seen) {
    return new Election.Listener() {
      @Override
      public void onNext(LeaderResponse response) {
        seen.add(response.getKv().getValue().toString());
      }

      @Override
      public void onError(Throwable failure) {
        seen.add(failure.toString());
      }

      @Override
      public void onCompleted() {}
    };
  }

  private void maintenance() throws Exception {
    put("java/maintenance", "v");
    var maintenance = client.getMaintenanceClient();
    long leader = get(maintenance.statusMember(endpoint)).getLeader();
    check("status and members agree", get(client.getClusterClient().listMember()).getMembers().get(0).getId(), leader);
    check("no alarms", get(maintenance.listAlarms()).getAlarms().isEmpty(), true);
    check("the same hash twice", get(maintenance.hashKV(endpoint, 0)).getHash(), get(maintenance.hashKV(endpoint, 0)).getHash());
    ByteArrayOutputStream snapshot = new ByteArrayOutputStream();
    get(maintenance.snapshot(snapshot));
    byte[] content = snapshot.toByteArray();
    byte[] data = Arrays.copyOf(content, content.length - 32);
    byte[] sum = Arrays.copyOfRange(content, data.length, content.length);
    check("a snapshot ends with its checksum", Arrays.equals(MessageDigest.getInstance("SHA-256").digest(data), sum), true);
    get(maintenance.defragmentMember(endpoint));
    check("what was stored is there after a defragmentation", value("java/maintenance"), "v");
  }

  private void users() throws Exception {
    var auth = client.getAuthClient();
    get(auth.roleAdd(bytes("apps")));
    get(auth.roleGrantPermission(bytes("apps"), bytes("app/"), bytes("app0"), Permission.Type.READWRITE));
    check("the permission is told", get(auth.roleGet(bytes("apps"))).getPermissions().size(), 1);
    for (var each : Map.of("root", "root", "alice", "apps").entrySet()) {
      get(auth.userAdd(bytes(each.getKey()), bytes(each.getKey() + "pw")));
      get(auth.userGrantRole(bytes(each.getKey()), bytes(each.getValue())));
    }
    refused("a user twice", auth.userAdd(bytes("alice"), bytes("x")), "etcdserver: user name already exists");
    get(auth.authEnable());
    refused("nobody reads without a name", client.getKVClient().get(bytes("app/a")), "etcdserver: user name is empty");
    Client alice = connect("alice");
    BlockingQueue<WatchEvent> events = new LinkedBlockingQueue<>();
    watch(alice, "app/", prefix().build(), events);
    get(alice.getKVClient().put(bytes("app/a"), bytes("1")));
    check("a watch of what is allowed", told(events, 1), "P1");
    refused("a read elsewhere", alice.getKVClient().get(bytes("other")), "etcdserver: permission denied");
    refused("a write elsewhere", alice.getKVClient().put(bytes("other"), bytes("v")), "etcdserver: permission denied");
    TimeUnit.SECONDS.sleep(4); // its token runs out after one
    get(alice.getKVClient().put(bytes("app/a"), bytes("2")));
    check("a token that ran out is replaced", told(events, 1), "P2");
    get(connect("root").getAuthClient().authDisable());
    check("without authentication everybody reads", value("app/a"), "2");
  }

  private void reconnect() throws Exception {
    long id = get(client.getLeaseClient().grant(30)).getID();
    client.getLeaseClient().keepAlive(id, counting(new AtomicInteger()));
    get(client.getKVClient().put(bytes("java/reconnect/held"), bytes("v"), PutOption.builder().withLeaseId(id).build()));
    BlockingQueue<WatchEvent> events = new LinkedBlockingQueue<>();
    watch(client, "java/reconnect/n", prefix().build(), events);
    List<String> expected = new ArrayList<>();
    for (int number = 0; number < 20; number++) {
      if (number == 10) {
        check("ten before", told(events, 10), String.join(" ", expected));
        expected.clear();
        step("stop");
        step("start");
      }
      create("java/reconnect/n" + number, String.valueOf(number));
      expected.add("P" + number);
    }
    check("ten after the restart, once and in order", told(events, 10), String.join(" ", expected));
    check("the lease is there", get(client.getLeaseClient().keepAliveOnce(id)).getTTL(), 30L);
    check("and its key", value("java/reconnect/held"), "v");
  }

  /** A create is done once, however often it is tried. */
  private void create(String key, String value) throws Exception {
    for (long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_S); ; TimeUnit.MILLISECONDS.sleep(20)) {
      try {
        get(
            client.getKVClient().txn()
                .If(new Cmp(bytes(key), Cmp.Op.EQUAL, CmpTarget.createRevision(0)))
                .Then(Op.put(bytes(key), bytes(value), PutOption.DEFAULT))
                .commit());
        return;
      } catch (ExecutionException outage) {
        if (System.nanoTime() > end) {
          throw outage;
        }
      }
    }
  }
}
