package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is a headless Chromium with an empty profile, for one test, and what
// it has complained about until now.
func browser(t *testing.T) (ctx context.Context, complaints func() string) {
	t.Helper()
	bin, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium: scripts/test installs it")
	}
	// Nothing of its own goes to the network; root has no sandbox.
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(bin), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.WindowSize(1100, 900))
	var mu sync.Mutex
	var said []string
	listen := func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded: // the browser's own, refusals by policy among them
			said = append(said, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
		case *runtime.EventExceptionThrown:
			said = append(said, fmt.Sprintf("%s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
				for _, a := range e.Args {
					said = append(said, string(a.Value)+a.Description)
				}
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	ctx, cancelBrowser := chromedp.NewExecAllocator(ctx, options...)
	ctx, cancelTab := chromedp.NewContext(ctx, chromedp.WithListener(listen))
	t.Cleanup(func() {
		cancelTab()
		cancelBrowser()
		cancel()
	})
	return ctx, func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(said, "\n")
	}
}

// The page for people, in a browser: it takes a key, shows the reference, sends
// a request and shows the answer.
func TestLiveDocs(t *testing.T) {
	g := startGateway(t, "test", liveSocket(t, envTest))
	ctx, complaints := browser(t)
	do := func(what string, steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	text := func(selector string) string {
		t.Helper()
		v, err := chromedp.Run(ctx, chromedp.Text(selector))
		if err != nil {
			t.Fatalf("%s: %v", selector, err)
		}
		return v
	}
	const (
		operation = "#operations-domains-listDomains"
		response  = operation + " .live-responses-table tbody"
	)
	do("open the page", chromedp.Navigate(g.url+"/docs"), chromedp.WaitVisible("#with-key"))
	do("give the key", chromedp.SendKeys("[name=key]", liveKey), chromedp.SendKeys("[name=username]", liveUser), chromedp.Click("#with-key button"))
	do("see the reference", chromedp.WaitVisible(operation))
	do("open the list", chromedp.Click(operation+" .opblock-summary-control"), chromedp.WaitVisible(operation+" .try-out__btn"))
	do("try it", chromedp.Click(operation+" .try-out__btn"), chromedp.WaitVisible(operation+" .execute"), chromedp.Click(operation+" .execute"))
	do("see the answer", chromedp.WaitVisible(response))
	status, answer := text(response+" .response-col_status"), text(response+" .highlight-code")
	if !strings.Contains(status, "200") || !strings.Contains(answer, `"name": "test"`) || !strings.Contains(answer, `"status": "Running"`) {
		t.Errorf("the page shows %s: %s", status, answer)
	}
	if said := complaints(); said != "" {
		t.Errorf("the browser complains:\n%s", said)
	}
	if *update {
		picture, err := chromedp.Run(ctx, func(ctx context.Context, tab *chromedp.Target) ([]byte, error) {
			_, err := chromedp.Evaluate[any](`document.querySelector("`+operation+` .responses-wrapper").scrollIntoView()`)(ctx, tab)
			if err != nil {
				return nil, err
			}
			return chromedp.CaptureScreenshot()(ctx, tab)
		})
		if err == nil {
			err = os.WriteFile("docs/page.png", picture, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}

	do("open the page again", chromedp.Navigate(g.url+"/docs/"), chromedp.WaitVisible("#with-service-key"))
	do("give a wrong key", chromedp.SendKeys("[name=serviceKey]", "wrong"), chromedp.Click("#with-service-key button"))
	eventually(t, "a refusal", 10*time.Second, func() bool { return text("#refusal") == "Bad X-Auth-User-Service-Key" })
}
