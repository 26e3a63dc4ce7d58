// pg-boss. Defaults: one job per fetch and worker, then two seconds of rest. Best: big batches, fetching again at once while
// batches come back full, and LISTEN/NOTIFY, as its documentation of `work()` says.
import { PgBoss } from "pg-boss";
import { main } from "./driver.mjs";

const queue = "default";

main(async (order) => {
  const boss = new PgBoss({ connectionString: order.url, useListenNotify: order.best, max: 10 });
  boss.on("error", (error) => console.error(error.message));
  await boss.start();
  return {
    migrate: () => boss.createQueue(queue, { notify: order.best }),
    enqueue: (numbers, urgent) => {
      const priority = urgent ? 10 : 0;
      if (numbers.length === 1) return boss.send(queue, { n: numbers[0] }, { priority });
      return boss.insert(queue, numbers.map((n) => ({ data: { n }, priority })));
    },
    work: (_, handle) => {
      if (!order.best) return boss.work(queue, { localConcurrency: order.concurrency }, ([job]) => handle(job.data.n));
      const one = limited(order.concurrency, handle);
      const options = { batchSize: 500, localConcurrency: 2, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 };
      return boss.work(queue, options, (jobs) => Promise.all(jobs.map((job) => one(job.data.n))));
    },
  };
});

// Lets `most` calls run at once; a batch is handed to the handler whole.
function limited(most, call) {
  const waiting = [];
  let running = 0;
  return async (argument) => {
    if (running >= most) await new Promise((go) => waiting.push(go));
    else running++;
    try {
      return await call(argument);
    } finally {
      const next = waiting.shift();
      if (next) next();
      else running--;
    }
  };
}
