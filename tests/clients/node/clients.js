// The calls of JavaScript programs, made with the npm client etcd3; every answer is checked.
//
//   node clients.js SCENARIO HOST:PORT
//
// It ends with one line of JSON on standard output: the scenario, the client's version, what was checked. The first check
// that fails ends it with exit code 1 and the reason on standard error. A scenario that needs something done to the server
// asks for it with a line {"step": ...} and goes on when a line comes back.

'use strict';

const assert = require('node:assert/strict');
const { createHash } = require('node:crypto');
const { once } = require('node:events');
const readline = require('node:readline');
const etcd3 = require('etcd3');
const { version } = require('etcd3/package.json');

const PATIENCE_MS = 20_000;
const SCENARIO_LIMIT_MS = 90_000;
const SERIALIZABLE_SNAPSHOT = 0;
const SERIALIZABLE = 1;

const checked = [];
const clients = [];
let endpoint;
let lines;

function connect(auth) {
  const client = new etcd3.Etcd3({ hosts: endpoint, auth });
  clients.push(client);
  return client;
}

function check(what, seen, expected) {
  assert.deepEqual(seen, expected, what);
  checked.push(what);
}

async function refused(what, call, kind, text = /(?:)/) {
  const error = await Promise.resolve().then(call).then(() => undefined, (reason) => reason);
  assert.ok(error instanceof kind && text.test(error.message), `${what}: ${error}`);
  checked.push(what);
}

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function step(what) {
  lines ??= readline.createInterface({ input: process.stdin });
  say({ step: what });
  await Promise.race([once(lines, 'line'), once(lines, 'close').then(() => assert.fail(`nobody did: ${what}`))]);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function until(what, look) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!look()) {
    assert.ok(Date.now() < deadline, `waited in vain: ${what}`);
    await pause(10);
  }
}

/** Starts a watch and collects what it tells, as words: P or D, and the value. [watcher, words] */
async function watch(builder) {
  const words = [];
  const watcher = builder.watcher();
  watcher.on('put', (kv) => words.push(`P${kv.value}`));
  watcher.on('delete', (kv, previous) => words.push(`D${previous ? previous.value : ''}`));
  await once(watcher, 'connected');
  return [watcher, words];
}

async function kv(client) {
  const first = await client.put('js/kv/a').value('1');
  const before = await client.put('js/kv/a').value('2').getPrevious();
  check('the value before', String(before.value), '1');
  check('the next revision', Number(before.header.revision), Number(first.header.revision) + 1);
  check('a string', await client.get('js/kv/a').string(), '2');
  check('a number', await client.get('js/kv/a').number(), 2);
  check('nothing', await client.get('js/kv/none').string(), null);
  check('an old revision', await client.get('js/kv/a').revision(first.header.revision).string(), '1');
  for (const name of ['c', 'b']) await client.put(`js/kv/${name}`).value(name);
  check('a prefix', await client.getAll().prefix('js/kv/').strings(), { 'js/kv/a': '2', 'js/kv/b': 'b', 'js/kv/c': 'c' });
  check('keys, sorted downwards', await client.getAll().prefix('js/kv/').sort('Key', 'Descend').limit(2).keys(), [
    'js/kv/c',
    'js/kv/b',
  ]);
  check('a count', await client.getAll().prefix('js/kv/').count(), 3);
  check('an interval', await client.getAll().inRange({ start: 'js/kv/a', end: 'js/kv/c' }).keys(), ['js/kv/a', 'js/kv/b']);
  check('bytes', await client.put('js/kv/x').value(Buffer.from([0, 255])).exec().then(() => client.get('js/kv/x').buffer()),
    Buffer.from([0, 255]));
  const space = client.namespace('js/kv/');
  check('a namespace', await space.getAll().keys(), ['a', 'b', 'c', 'x']);
  check('what a deletion deletes', (await client.delete().prefix('js/kv/').getPrevious()).length, 4);
  await refused('an empty key', () => client.put('').value('v').exec(), etcd3.GRPCInvalidArgumentError, /key is not provided/);
  await refused('a future revision', () => client.get('js/kv/a').revision(1e9).string(), etcd3.GRPCOutOfRangeError,
    /required revision is a future revision/);
}

async function transactions(client) {
  await client.put('js/txn/a').value('old');
  const won = await client
    .if('js/txn/a', 'Value', '==', 'old')
    .and('js/txn/b', 'Version', '==', 0)
    .then(client.put('js/txn/a').value('new'), client.get('js/txn/a'))
    .commit();
  check('the comparison holds', won.succeeded, true);
  check('it reads its own writes', String(won.responses[1].response_range.kvs[0].value), 'new');
  const lost = await client.if('js/txn/a', 'Mod', '<', 2).then(client.delete().key('js/txn/a')).else(client.get('js/txn/a')).commit();
  check('the other branch', [lost.succeeded, String(lost.responses[0].response_range.kvs[0].value)], [false, 'new']);
  for (const isolation of [SERIALIZABLE_SNAPSHOT, SERIALIZABLE]) {
    await client.put('js/txn/counter').value(0);
    const increment = () =>
      client.stm({ isolation, retries: 100 }).transact(async (tx) => {
        await tx.put('js/txn/counter').value((await tx.get('js/txn/counter').number()) + 1);
      });
    await Promise.all(Array.from({ length: 12 }, increment));
    check(`software transactions lose nothing at level ${isolation}`, await client.get('js/txn/counter').number(), 12);
  }
}

async function watches(client) {
  const start = (await client.put('js/watch/before').value('0')).header.revision;
  const all = () => client.watch().prefix('js/watch/');
  const [live, first] = await watch(all().withPreviousKV());
  const [, second] = await watch(all().startRevision(start));
  const [, third] = await watch(all().only('put'));
  const seen = [first, second, third];
  await client.put('js/watch/a').value('1');
  await client.put('js/elsewhere').value('unseen');
  await client.put('js/watch/a').value('2');
  await client.delete().key('js/watch/a');
  await client.put('js/watch/a').value('3');
  await until('all is told', () => seen[0].length >= 4 && seen[1].length >= 5 && seen[2].length >= 3);
  check('live, with the values before', seen[0], ['P1', 'P2', 'D2', 'P3']);
  check('from history', seen[1], ['P0', 'P1', 'P2', 'D', 'P3']);
  check('puts only', seen[2], ['P1', 'P2', 'P3']);
  await live.cancel();
  await client.put('js/watch/a').value('4');
  await until('the others are told', () => seen[1].length === 6);
  check('a cancelled watch is told nothing more', seen[0].length, 4);
}

async function leases(client) {
  const lease = client.lease(60);
  await lease.put('js/lease/a').value('v');
  const id = await lease.grant();
  const found = await client.get('js/lease/a').exec();
  check('the key has the lease', String(found.kvs[0].lease), id);
  check('a renewal', Number((await lease.keepaliveOnce()).TTL), 60);
  await lease.revoke();
  check('its key goes with it', await client.get('js/lease/a').exists(), false);
  const short = client.lease(2);
  await short.put('js/lease/short').value('v');
  await pause(5_000);
  check('a lease of two seconds is kept for five', await client.get('js/lease/short').exists(), true);
  const [, gone] = await watch(client.watch().key('js/lease/short'));
  short.release();
  await until('it runs out when nobody keeps it', () => gone.length === 1);
  check('by a deletion', gone, ['D']);
  const lost = client.lease(60);
  const why = once(lost, 'lost');
  await lost.grant();
  await client.leaseClient.leaseRevoke({ ID: await lost.grant() });
  await refused('a renewal then finds no lease', () => lost.keepaliveOnce(), etcd3.EtcdLeaseInvalidError);
  await why;
}

async function locks(client) {
  let inside = 0;
  let turns = 0;
  const work = async () => {
    for (let turn = 0; turn < 5; ) {
      try {
        await client.lock('js/lock').ttl(30).do(async () => {
          inside += 1;
          assert.equal(inside, 1);
          await pause(2);
          inside -= 1;
        });
        turn += 1;
        turns += 1;
      } catch (error) {
        if (!(error instanceof etcd3.EtcdLockFailedError)) throw error;
        await pause(5);
      }
    }
  };
  await Promise.all(Array.from({ length: 4 }, work));
  check('never two hold the lock, and all have their turns', turns, 20);
  const held = await client.lock('js/lock').ttl(30).acquire();
  await refused('a held lock', () => client.lock('js/lock').acquire(), etcd3.EtcdLockFailedError);
  await held.release();
  check('a lock is given back', await client.get('js/lock').exists(), false);
}

async function elections(client) {
  const election = client.election('js-seat', 30);
  const observer = await election.observe();
  check('nobody leads at first', observer.leader(), undefined);
  const one = election.campaign('one');
  await one.wait();
  await until('the observer sees who leads', () => observer.leader() === 'one');
  const two = election.campaign('two');
  const elected = two.wait();
  await one.proclaim('one again');
  await until('the observer sees what is proclaimed', () => observer.leader() === 'one again');
  await one.resign();
  await elected;
  await until('who waited leads', () => observer.leader() === 'two');
  check('everybody is told', await election.leader(), 'two');
  await refused('who resigned cannot proclaim', () => one.proclaim('late'), etcd3.NotCampaigningError);
  await two.resign();
  await observer.cancel();
}

async function maintenance(client) {
  await client.put('js/maintenance').value('v');
  const status = await client.maintenance.status();
  const members = await client.cluster.memberList({});
  check('status and members agree', status.leader, members.members[0].ID);
  check('no alarms', (await client.maintenance.alarm({ action: 'Get' })).alarms, []);
  const stream = await client.maintenance.snapshot();
  const pieces = [];
  stream.on('data', (piece) => pieces.push(piece.blob));
  await new Promise((resolve, reject) => stream.on('end', resolve).on('error', reject));
  const content = Buffer.concat(pieces);
  const data = content.subarray(0, -32);
  check('a snapshot ends with its checksum', createHash('sha256').update(data).digest(), content.subarray(-32));
  await client.maintenance.defragment();
  check('what was stored is there after a defragmentation', await client.get('js/maintenance').string(), 'v');
}

async function users(client) {
  const role = await client.role('apps').create();
  await role.grant({ permission: 'Readwrite', range: client.range({ prefix: 'app/' }) });
  await (await client.user('root').create('rootpw')).addRole('root');
  await (await client.user('alice').create('alicepw')).addRole(role);
  check('the permission is told', (await role.permissions()).length, 1);
  await refused('a user twice', () => client.user('alice').create('x'), etcd3.EtcdUserExistsError);
  await client.auth.authEnable();
  await refused('nobody reads without a name', () => client.get('app/a').string(), etcd3.GRPCInvalidArgumentError, /user name is empty/);
  const wrong = connect({ username: 'alice', password: 'wrong' });
  await refused('a wrong password', () => wrong.get('app/a').string(), etcd3.EtcdAuthenticationFailedError);
  const alice = connect({ username: 'alice', password: 'alicepw' });
  const [, seen] = await watch(alice.watch().prefix('app/'));
  await alice.put('app/a').value('1');
  await until('a watch of what is allowed', () => seen.length === 1);
  check('a read of what is allowed', await alice.get('app/a').string(), '1');
  await refused('a read elsewhere', () => alice.get('other').string(), etcd3.EtcdPermissionDeniedError);
  await refused('a write elsewhere', () => alice.put('other').value('v').exec(), etcd3.EtcdPermissionDeniedError);
  await pause(4_000); // its token runs out after one
  await alice.put('app/a').value('2');
  check('a token that ran out is replaced', await alice.get('app/a').string(), '2');
  await connect({ username: 'root', password: 'rootpw' }).auth.authDisable();
  check('without authentication everybody reads', await client.get('app/a').string(), '2');
}

async function reconnect(client) {
  const lease = client.lease(30);
  await lease.put('js/reconnect/held').value('v');
  const [, seen] = await watch(client.watch().prefix('js/reconnect/n'));
  const put = async (number) => {
    const key = `js/reconnect/n${number}`;
    for (const deadline = Date.now() + PATIENCE_MS; ; await pause(20)) {
      try {
        // A create is done once, however often it is tried.
        await client.if(key, 'Create', '==', 0).then(client.put(key).value(number)).commit();
        return;
      } catch (error) {
        if (Date.now() > deadline) throw error;
      }
    }
  };
  for (let number = 0; number < 10; number += 1) await put(number);
  await until('ten are told', () => seen.length === 10);
  await step('stop');
  await step('start');
  for (let number = 10; number < 20; number += 1) await put(number);
  await until('all are told', () => seen.length >= 20);
  check('every event once and in order, over the restart', seen, Array.from({ length: 20 }, (_, number) => `P${number}`));
  check('the lease is there', Number((await lease.keepaliveOnce()).TTL), 30);
  check('and its key', await client.get('js/reconnect/held').string(), 'v');
  await lease.revoke();
}

const scenarios = { elections, kv, leases, locks, maintenance, reconnect, transactions, users, watches };

async function main() {
  const [name, address] = process.argv.slice(2);
  if (!Object.hasOwn(scenarios, name ?? '') || !address) {
    throw new Error(`usage: node clients.js SCENARIO HOST:PORT; scenarios: ${Object.keys(scenarios).join(' ')}`);
  }
  endpoint = address;
  const limit = setTimeout(() => {
    process.stderr.write(`${name}: not done within ${SCENARIO_LIMIT_MS} ms; checked: ${checked.join('; ')}\n`);
    process.exit(1);
  }, SCENARIO_LIMIT_MS);
  await scenarios[name](connect());
  clearTimeout(limit);
  for (const client of clients) client.close();
  lines?.close();
  say({ scenario: name, client: `etcd3 ${version}`, checked });
}

main().then(
  () => process.exit(0),
  (error) => {
    process.stderr.write(`${error.stack}\nchecked before: ${checked.join('; ')}\n`);
    process.exit(1);
  },
);
