// What the drivers in JavaScript share: reading the order, pacing the offer, and telling when handlers began.
// The protocol is described in benches/peers/README.md.
import process from "node:process";

// Seconds since 1970: the drivers that enqueue and those that work are different processes.
const now = () => (performance.timeOrigin + performance.now()) / 1000;
// Awaited where the process ends next: a long line must be out before it.
const say = (line) => new Promise((out) => process.stdout.write(JSON.stringify(line) + "\n", out));
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * Reads the order, obeys it, prints its results and ends the process.
 *
 * `connect(order)` answers a peer: `migrate()`, `enqueue(numbers, urgent)` and `work(order, handle)`, where `handle(number)`
 * is the body of every handler.
 */
export async function main(connect) {
  const order = { best: false, concurrency: 1, sleep_ms: 0, count: 0, batch: 1, rate: 0, seconds: 0, urgent: false, first: 0 };
  Object.assign(order, JSON.parse(process.argv[2]));
  const peer = await connect(order);
  if (order.do === "migrate") await peer.migrate();
  else if (order.do === "enqueue") await enqueue(peer, order);
  else await work(peer, order);
  process.exit(0);
}

async function enqueue(peer, order) {
  const commits = [];
  const calls = [];
  const began = now();
  let offered = 0;
  while (offered < order.count && (!order.seconds || now() - began < order.seconds)) {
    const size = Math.min(order.batch, order.count - offered);
    const numbers = Array.from({ length: size }, (_, n) => order.first + offered + n);
    offered += size;
    const call = peer.enqueue(numbers, order.urgent);
    if (!order.rate) {
      await call;
      continue;
    }
    calls.push(
      call.then(() => {
        const at = now();
        for (const number of numbers) commits.push([number, at]);
      }),
    );
    // Timers are whole milliseconds and late: what is due by now is offered at once.
    const due = began + offered / order.rate;
    if (due > now()) await sleep((due - now()) * 1000);
  }
  await Promise.all(calls);
  await say({ enqueued: offered, seconds: now() - began, commits });
}

async function work(peer, order) {
  const starts = [];
  let begun = 0;
  const handle = async (number) => {
    if (number >= 0) starts.push([number, now()]);
    if (order.sleep_ms) await sleep(order.sleep_ms);
    if (++begun === order.count) say({ handled: begun });
  };
  say({ ready: now() });
  await peer.work(order, handle);
  for await (const _ of process.stdin);
  await say({ begun, starts });
}
