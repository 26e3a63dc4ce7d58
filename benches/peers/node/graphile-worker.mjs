// graphile-worker. Best: the settings of its performance page (local queue of 500, completions in batches without delay).
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { main } from "./driver.mjs";

const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(message);
});

main(async (order) => {
  const worker = { connectionString: order.url, concurrentJobs: order.concurrency, logger };
  if (order.best) {
    Object.assign(worker, { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 });
    worker.maxPoolSize = order.concurrency + 1;
  }
  const preset = { worker };
  const utils = order.do === "work" ? null : await makeWorkerUtils({ preset });
  return {
    migrate: () => utils.migrate(),
    enqueue: (numbers, urgent) => {
      // Smaller runs first.
      const priority = urgent ? -10 : 0;
      if (numbers.length === 1) return utils.addJob("task", { n: numbers[0] }, { priority });
      return utils.addJobs(numbers.map((n) => ({ identifier: "task", payload: { n }, priority })));
    },
    work: (_, handle) => run({ preset, taskList: { task: ({ n }) => handle(n) } }),
  };
});
