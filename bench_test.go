package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/digitalocean/go-libvirt"

	"virtgate/auth"
	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
	"virtgate/server"
)

// BenchmarkRequests is what a request costs in this program and in the scripted
// daemon that answers it, so that its allocations can be watched. How fast the
// server is on a real daemon is what scripts/bench measures.
func BenchmarkRequests(b *testing.B) {
	var ds []libvirt.Domain
	for i := range 1000 {
		ds = append(ds, libvirt.Domain{Name: fmt.Sprintf("vm-%04d", i), UUID: libvirt.UUID{byte(i >> 8), byte(i)}, ID: -1})
	}
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		switch r.Proc {
		case "ConnectListAllDomains":
			r.Reply(libvirt.ConnectListAllDomainsRet{Domains: ds, Ret: uint32(len(ds))})
		case "DomainLookupByName":
			r.Reply(libvirt.DomainLookupByNameRet{Dom: ds[0]})
		case "DomainGetState":
			r.Reply(libvirt.DomainGetStateRet{State: 5})
		default:
			r.Error(1, "not here")
		}
	})
	client, err := libvirtrpc.New(libvirtrpc.Options{Dial: d.Dial, URI: "test:///default"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { client.Run(ctx) })
	b.Cleanup(func() { cancel(); wg.Wait(); d.Close() })
	a, err := auth.New(auth.Config{})
	if err != nil {
		b.Fatal(err)
	}
	s := server.New(server.Options{Libvirt: client, Auth: a, Log: slog.New(slog.DiscardHandler), BodyLimit: 1 << 20, RequestTimeout: 1 << 36})
	for name, path := range map[string]string{
		"livez":   "/livez",
		"refused": "/libvirt/domains?fields=colour",
		"list":    "/libvirt/domains?fields=name,uuid,id,active",
		"details": "/libvirt/domains/by-name/vm-0000?fields=name,status",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)
				r.Host = "localhost"
				s.ServeHTTP(w, r)
				if w.Code != 200 && name != "refused" {
					text, _ := io.ReadAll(w.Body)
					b.Fatalf("%d %s", w.Code, text)
				}
			}
		})
	}
}
