// Program clients makes the calls of Go programs with the stock etcd client, clientv3, and checks every answer.
//
//	clients SCENARIO ENDPOINT[,ENDPOINT...]
//
// It ends with one line of JSON on standard output: the scenario, the client's version, and what was checked. The first
// check that fails ends it with exit code 1 and the reason on standard error. A scenario that needs something done to a
// server asks for it with a line {"step": ...} and goes on when a line comes back. Nothing here starts a server.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"sort"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	clientModule = "go.etcd.io/etcd/client/v3"
	// scenarioLimit bounds a whole scenario; patience bounds the wait for one thing.
	scenarioLimit = 90 * time.Second
	patience      = 20 * time.Second
)

var scenarios = map[string]func(*run){
	"auth":            auth,
	"election":        election,
	"errors":          errorTexts,
	"failover":        failover,
	"kubernetes":      kubernetesClient,
	"kv":              kv,
	"leasing":         leasingCache,
	"lease":           lease,
	"maintenance":     maintenance,
	"mirror":          mirrorPrefix,
	"mutex":           mutex,
	"namespace":       namespaces,
	"stm":             softwareTransactions,
	"txn":             txn,
	"watch":           watch,
	"watch-reconnect": watchReconnect,
}

// run is one scenario under way. Failed checks panic with a failure.
type run struct {
	ctx       context.Context
	client    *clientv3.Client
	endpoints []string
	checked   []string
	input     *bufio.Reader
}

type failure struct{ text string }

func main() {
	if len(os.Args) != 3 || scenarios[os.Args[1]] == nil {
		fmt.Fprintf(os.Stderr, "usage: clients SCENARIO ENDPOINTS; scenarios: %s\n", strings.Join(names(), " "))
		os.Exit(2)
	}
	os.Exit(play(os.Args[1], strings.Split(os.Args[2], ",")))
}

func play(name string, endpoints []string) (code int) {
	ctx, cancel := context.WithTimeout(context.Background(), scenarioLimit)
	defer cancel()
	r := &run{ctx: ctx, endpoints: endpoints, input: bufio.NewReader(os.Stdin)}
	defer func() {
		if failed, ok := recover().(failure); ok {
			fmt.Fprintf(os.Stderr, "%s: %s\nchecked before: %s\n", name, failed.text, strings.Join(r.checked, "; "))
			code = 1
		}
	}()
	r.client = r.connect("", "")
	defer r.client.Close()
	scenarios[name](r)
	say(map[string]any{"scenario": name, "client": "clientv3 " + clientVersion(), "checked": r.checked})
	return 0
}

// connect opens a client of its own; with a name it logs in.
func (r *run) connect(user, password string) *clientv3.Client {
	client, err := r.dial(user, password)
	r.must("connect", err)
	return client
}

func (r *run) dial(user, password string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   r.endpoints,
		DialTimeout: 5 * time.Second,
		Context:     r.ctx,
		Logger:      zap.NewNop(),
		Username:    user,
		Password:    password,
	})
}

// checks

func (r *run) fail(format string, arguments ...any) {
	panic(failure{fmt.Sprintf(format, arguments...)})
}

// must ends the scenario if a call failed.
func (r *run) must(what string, err error) {
	if err != nil {
		r.fail("%s: %v", what, err)
	}
}

// check notes what was found true, or ends the scenario.
func (r *run) check(what string, ok bool, seen ...any) {
	if !ok {
		r.fail("not so: %s; seen: %v", what, seen)
	}
	r.checked = append(r.checked, what)
}

// step asks the caller to do something to the servers and waits until it is done.
func (r *run) step(what string) {
	say(map[string]any{"step": what})
	if _, err := r.input.ReadString('\n'); err != nil {
		r.fail("nobody answered the step %s: %v", what, err)
	}
}

// bounded is a context for a call that must not take longer than patience.
func (r *run) bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.ctx, patience)
}

// put is for where the put is not what is tested. Its revision.
func (r *run) put(key, value string, options ...clientv3.OpOption) int64 {
	answer, err := r.client.Put(r.ctx, key, value, options...)
	r.must("put "+key, err)
	return answer.Header.Revision
}

func (r *run) get(key string, options ...clientv3.OpOption) *clientv3.GetResponse {
	answer, err := r.client.Get(r.ctx, key, options...)
	r.must("get "+key, err)
	return answer
}

// value is the value of one key, or "(none)".
func (r *run) value(key string) string {
	answer := r.get(key)
	if len(answer.Kvs) == 0 {
		return "(none)"
	}
	return string(answer.Kvs[0].Value)
}

// keys are the keys of an answer, joined, without a prefix.
func keys(answer *clientv3.GetResponse, prefix string) string {
	found := make([]string, len(answer.Kvs))
	for place, kv := range answer.Kvs {
		found[place] = strings.TrimPrefix(string(kv.Key), prefix)
	}
	return strings.Join(found, " ")
}

// within waits for something from a channel; false after patience, or if the channel is closed.
func within[T any](channel <-chan T) (T, bool) {
	select {
	case got, open := <-channel:
		return got, open
	case <-time.After(patience):
		var none T
		return none, false
	}
}

func say(line map[string]any) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}

func clientVersion() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == clientModule {
			return strings.TrimPrefix(module.Version, "v")
		}
	}
	return "unknown"
}

func names() []string {
	found := make([]string, 0, len(scenarios))
	for name := range scenarios {
		found = append(found, name)
	}
	sort.Strings(found)
	return found
}
