// Drives a virtgate with the types that openapi-typescript makes of its
// description, and openapi-fetch.
import createClient from "openapi-fetch";
import type { paths } from "./api.d.ts";

const { VIRTGATE_URL, VIRTGATE_KEY, VIRTGATE_USER } = process.env;
const virtgate = createClient<paths>({
  baseUrl: VIRTGATE_URL!,
  headers: { "X-Auth-Key": VIRTGATE_KEY!, "X-Auth-Username": VIRTGATE_USER! },
  // Lists are comma-joined.
  querySerializer: { array: { style: "form", explode: false } },
});

function fail(what: string, answer: unknown): never {
  console.error(what, JSON.stringify(answer));
  process.exit(1);
}

// Create one and start it.
const fresh = { name: "from-typescript", os: "Linux" } as const;
const created = await virtgate.POST("/libvirt/domains", { params: { query: { start: true } }, body: fresh });
if (!created.data) fail("not created", created.error);
const made = created.data.results[0];
console.log("created", made.name, made.uuid, made.status);

// The same again is refused.
const again = await virtgate.POST("/libvirt/domains", { body: fresh });
if (again.error?.errors[0].code !== 106) fail("created again", again.data);
console.log("again:", again.error.errors[0].message);

// List what runs.
const list = await virtgate.GET("/libvirt/domains", {
  params: { query: { state: ["running"], fields: ["name", "status"] } },
});
if (!list.data) fail("no list", list.error);
for (const d of list.data.results) console.log("listed", d.name, d.status);

// Pause it and let it go on, the second only if the first succeeded.
const one = { params: { path: { identifier: made.name } } };
const changed = await virtgate.PATCH("/libvirt/domains/by-name/{identifier}", {
  ...one,
  body: [{ power_mgt: "suspend" }, { power_mgt: "resume", depends: 0 }],
});
if (changed.data?.messages.length !== 2) fail("not changed", changed);
for (const m of changed.data.messages) console.log("changed", m);

// Delete it.
const gone = await virtgate.DELETE("/libvirt/domains/by-name/{identifier}", {
  params: { ...one.params, query: { options: ["destroy"] } },
});
if (!gone.data?.results[0].deleted) fail("not deleted", gone.error);
const after = await virtgate.GET("/libvirt/domains/by-name/{identifier}", one);
if (after.response.status !== 404) fail("still there", after.data);
console.log("deleted:", after.error?.errors[0].message);
