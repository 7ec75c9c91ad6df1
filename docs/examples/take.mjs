// Take every outcome that is waiting, then end. A service waits a second instead of ending and claims again.
//
//   node take.mjs http://127.0.0.1:8081 API_TOKEN
//
// Node 18 or later; no packages.

const [api, token] = process.argv.slice(2);

async function ask(path, body) {
  const answer = await fetch(api + path, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return answer.json();
}

for (;;) {
  const { messages } = await ask("/v1/outbox/claim", { limit: 10, lease_s: 60 });
  if (messages.length === 0) break;
  for (const { id, type, data } of messages) {
    console.log(type, data.source, data.job_id, JSON.stringify(data.result)); // handle it here, then:
    await ask("/v1/outbox/ack", { ids: [id] });
  }
}
