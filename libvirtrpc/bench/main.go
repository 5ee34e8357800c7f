// Command bench measures a virtgate binary against its floor: go-libvirt called
// directly, with the cheapest sequence of calls that gives the same answer. It
// prints a Markdown table. scripts/bench starts the daemon that it needs.
//
// All figures of one row are from the same run, taken in turns, because the
// machine's speed changes more between runs than the program's.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const key = "bench"

func main() {
	log.SetFlags(0)
	socket := flag.String("socket", "", "libvirt `socket` of a QEMU daemon without domains")
	bin := flag.String("virtgate", "", "stripped virtgate `binary`")
	defined := flag.Int("domains", 1000, "defined domains")
	running := flag.Int("running", 20, "running domains besides")
	flag.Parse()
	f, err := newFloor(*socket)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("defining %d domains, starting %d", *defined+*running, *running)
	if err := f.populate(*defined, *running); err != nil {
		log.Fatal(err)
	}
	defer f.remove()

	s, startTime, err := startServer(*bin, *socket)
	if err != nil {
		f.remove()
		log.Fatal(err)
	}
	defer s.stop()
	time.Sleep(2 * time.Second) // let the collector settle: what is idle is not yet idle
	idle := s.memory("VmRSS")
	size, err := os.Stat(*bin)
	if err != nil {
		log.Fatal(err)
	}

	fmt.Printf("%d defined and %d running (paused) QEMU domains.\n\n", *defined, *running)
	fmt.Println("| what | wanted | measured | virtgate | floor |")
	fmt.Println("|---|---|---|---|---|")
	row := func(what, wanted, measured, ours, floor string) {
		fmt.Printf("| %s | %s | %s | %s | %s |\n", what, wanted, measured, ours, floor)
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }

	list := func() { s.get("/libvirt/domains") }
	ours, floor := pairs(40, list, f.listAll)
	row("list, all fields, 1 client", "≤ 1.5 × floor", fmt.Sprintf("%.2f ×", ratio(ours, floor)), ms(ours), ms(floor))
	one := rate(1, 3*time.Second, list)
	many := rate(32, 5*time.Second, list)
	row("list, all fields, 32 clients", "≥ 10 × the lists/s of 1 client", fmt.Sprintf("%.1f ×", many/one),
		fmt.Sprintf("%.0f/s", many), fmt.Sprintf("1 client: %.0f/s", one))
	ours, floor = pairs(100, func() { s.get("/libvirt/domains?fields=name,uuid") }, f.list)
	row("list, `fields=name,uuid`", "≤ 2 ms above its one call", "+"+ms(ours-floor), ms(ours), ms(floor))

	name := domainName(1)
	details := func() { s.get("/libvirt/domains/by-name/" + name) }
	bare, _ := pairs(600, func() { s.get("/livez") }, func() {})
	log.Printf("a request without libvirt takes %s", ms(bare))
	ours, floor = pairs(600, details, func() { f.details(name) })
	row("details, 1 client", "≤ 1.3 × floor", fmt.Sprintf("%.2f ×", ratio(ours, floor)), ms(ours), ms(floor))
	var a, b float64
	for range 3 { // in turns
		a += rate(8, 2*time.Second, details) / 3
		b += rate(8, 2*time.Second, func() { f.details(name) }) / 3
	}
	row("details, 8 clients", "≥ 80 % of go-libvirt", fmt.Sprintf("%.0f %%", 100*a/b), fmt.Sprintf("%.0f/s", a), fmt.Sprintf("%.0f/s", b))

	row("memory, idle", "< 20 MiB", fmt.Sprintf("%.1f MiB", idle), "", "")
	var n atomic.Int64
	rate(256, 10*time.Second, func() {
		if n.Add(1)%8 == 0 {
			list()
		} else {
			details()
		}
	})
	row("memory, most, under 256 clients", "< 64 MiB", fmt.Sprintf("%.1f MiB", s.memory("VmHWM")), "", "")
	row("binary, static and stripped", "< 15 MiB", fmt.Sprintf("%.1f MiB", float64(size.Size())/(1<<20)), "", "")
	row("from start to the first answer of libvirt", "< 100 ms", ms(startTime), "", "")
}

// pairs runs both in turns and returns the median of each.
func pairs(n int, a, b func()) (time.Duration, time.Duration) {
	as, bs := make([]time.Duration, n), make([]time.Duration, n)
	for range 3 { // warm
		a()
		b()
	}
	for i := range n {
		start := time.Now()
		a()
		mid := time.Now()
		b()
		as[i], bs[i] = mid.Sub(start), time.Since(mid)
	}
	slices.Sort(as)
	slices.Sort(bs)
	return as[n/2], bs[n/2]
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// rate is how many calls a second that many clients get together.
func rate(clients int, d time.Duration, fn func()) float64 {
	var n atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range clients {
		wg.Go(func() {
			for time.Since(start) < d {
				fn()
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(start).Seconds()
}

type virtgate struct {
	cmd     *exec.Cmd
	address string
	dir     string
	idle    chan *connection
}

// startServer starts the binary and says how long its first answer from
// libvirt took.
func startServer(bin, socket string) (*virtgate, time.Duration, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, 0, err
	}
	conf := fmt.Sprintf("[libvirtd]\nsocket=%s\n[http_server]\nport=18081\nauth-key=%s\n[wrapperd]\nquiet=true\n", socket, key)
	file := filepath.Join(dir, "config.ini")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, 0, err
	}
	s := &virtgate{cmd: exec.Command(bin, "--config", file), address: "127.0.0.1:18081", dir: dir, idle: make(chan *connection, 1024)}
	s.cmd.Stderr = os.Stderr
	start := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, 0, err
	}
	for time.Since(start) < 10*time.Second {
		if res, err := http.Get("http://" + s.address + "/readyz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return s, time.Since(start), nil
			}
		}
		time.Sleep(time.Millisecond)
	}
	s.stop()
	return nil, 0, fmt.Errorf("%s did not become ready", bin)
}

func (s *virtgate) stop() {
	s.cmd.Process.Signal(os.Interrupt)
	s.cmd.Wait()
	os.RemoveAll(s.dir)
}

// connection is a kept HTTP connection, without net/http's client, whose two
// goroutines for each connection would be a part of what is measured.
type connection struct {
	net.Conn
	in *bufio.Reader
}

func (s *virtgate) get(path string) {
	var c *connection
	select {
	case c = <-s.idle:
	default:
		raw, err := net.Dial("tcp", s.address)
		if err != nil {
			log.Panic(err)
		}
		c = &connection{raw, bufio.NewReaderSize(raw, 64<<10)}
	}
	request := "GET " + path + " HTTP/1.1\r\nHost: bench\r\nX-Auth-Key: " + key + "\r\nX-Auth-Username: root\r\n\r\n"
	if _, err := io.WriteString(c, request); err != nil {
		log.Panic(err)
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		log.Panic(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(`"success":true`)) {
		log.Panicf("%s: %d %v %.300s", path, res.StatusCode, err, body)
	}
	if res.Close { // after what is for anybody the server keeps no connection
		c.Close()
		return
	}
	s.idle <- c
}

// memory is a figure of /proc/PID/status in MiB.
func (s *virtgate) memory(field string) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		log.Panic(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}
