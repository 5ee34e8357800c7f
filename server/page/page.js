"use strict";

// The fields have the names of the description's security schemes.
const headers = {
  key: "X-Auth-Key",
  username: "X-Auth-Username",
  serviceKey: "X-Auth-User-Service-Key",
};

for (const form of document.forms) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const refusal = document.getElementById("refusal");
    refusal.textContent = "";
    // A server that wants no key takes an empty form.
    const given = [...new FormData(form)].filter(([, value]) => value !== "");
    try {
      const answer = await fetch("../libvirt/openapi.json", {
        headers: given.map(([scheme, value]) => [headers[scheme], value]),
      });
      const body = await answer.json();
      if (answer.ok) {
        show(body, given);
      } else {
        refusal.textContent = body.errors[0].message;
      }
    } catch (error) {
      refusal.textContent = error.message;
    }
  });
}

function show(description, given) {
  document.getElementById("entrance").remove();
  // Where this page is, also behind a proxy that puts something before the path.
  description.servers = [{ url: new URL("..", document.baseURI).href.replace(/\/$/, "") }];
  const ui = SwaggerUIBundle({
    dom_id: "#reference",
    spec: description,
    validatorUrl: null,
    defaultModelsExpandDepth: 0,
    onComplete: () => given.forEach(([scheme, value]) => ui.preauthorizeApiKey(scheme, value)),
  });
}
