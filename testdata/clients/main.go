// Drives a virtgate with the client that oapi-codegen makes of its description.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"client/api"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	credentials := func(_ context.Context, r *http.Request) error {
		r.Header.Set("X-Auth-Key", os.Getenv("VIRTGATE_KEY"))
		r.Header.Set("X-Auth-Username", os.Getenv("VIRTGATE_USER"))
		return nil
	}
	c, err := api.NewClientWithResponses(os.Getenv("VIRTGATE_URL"), api.WithRequestEditorFn(credentials))
	must(err)

	// Create one and start it.
	var domain api.NewDomain
	must(domain.FromNewDomainObject(api.NewDomainObject{Name: "from-go", Os: api.NewDomainObjectOsLinux}))
	var domains api.NewDomains
	must(domains.FromNewDomain(domain))
	yes := true
	created, err := c.CreateDomainsWithResponse(ctx, &api.CreateDomainsParams{Start: &yes}, domains)
	must(err)
	if created.JSON201 == nil {
		log.Fatalf("not created: %s", created.Body)
	}
	made := created.JSON201.Results[0]
	fmt.Println("created", made.Name, made.Uuid, made.Status)

	// The same again is refused.
	again, err := c.CreateDomainsWithResponse(ctx, nil, domains)
	must(err)
	if again.JSON409 == nil || again.JSON409.Errors[0].Code != 106 {
		log.Fatalf("created again: %s", again.Body)
	}
	fmt.Println("again:", again.JSON409.Errors[0].Message)

	// List what runs.
	state := []api.ListDomainsParamsState{"running"}
	fields := []api.ListDomainsParamsFields{"name", "status"}
	list, err := c.ListDomainsWithResponse(ctx, &api.ListDomainsParams{State: &state, Fields: &fields})
	must(err)
	if list.JSON200 == nil {
		log.Fatalf("no list: %s", list.Body)
	}
	for _, d := range list.JSON200.Results {
		fmt.Println("listed", *d.Name, *d.Status)
	}

	// Pause it and let it go on, the second only if the first succeeded.
	suspend, resume := power("suspend"), power("resume")
	resume.Depends = new(api.Depends)
	must(resume.Depends.FromDepends0(0))
	actions := make([]api.Action, 2)
	must(actions[0].FromPowerMgtAction(suspend))
	must(actions[1].FromPowerMgtAction(resume))
	var body api.Actions
	must(body.FromActions1(actions))
	changed, err := c.ChangeDomainByNameWithResponse(ctx, made.Name, nil, body)
	must(err)
	if changed.JSON200 == nil || len(changed.JSON200.Messages) != 2 {
		log.Fatalf("not changed: %s", changed.Body)
	}
	for _, m := range changed.JSON200.Messages {
		done, err := m.AsMessage1()
		must(err)
		fmt.Println("changed", done)
	}

	// Delete it.
	options := []api.DeleteDomainByNameParamsOptions{"destroy"}
	gone, err := c.DeleteDomainByNameWithResponse(ctx, made.Name, &api.DeleteDomainByNameParams{Options: &options})
	must(err)
	if gone.JSON200 == nil || !gone.JSON200.Results[0].Deleted {
		log.Fatalf("not deleted: %s", gone.Body)
	}
	after, err := c.GetDomainByNameWithResponse(ctx, made.Name, nil)
	must(err)
	if after.JSON404 == nil {
		log.Fatalf("still there: %s", after.Body)
	}
	fmt.Println("deleted:", after.JSON404.Errors[0].Message)
}

func power(request api.PowerRequest) api.PowerMgtAction {
	var a api.PowerMgtAction
	must(a.PowerMgt.FromPowerRequest(request))
	return a
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
