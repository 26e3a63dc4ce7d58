"""procrastinate.

The protocol is described in benches/peers/README.md. Best: deleting jobs that succeeded (its documentation advises to delete
finished jobs), a pool with a connection per job, and polling every half second below LISTEN/NOTIFY.
"""

import asyncio
import json
import logging
import sys
import time

import procrastinate

order = {
    "best": False, "concurrency": 1, "sleep_ms": 0, "count": 0, "batch": 1,
    "rate": 0, "seconds": 0, "urgent": False, "first": 0,
} | json.loads(sys.argv[1])  # fmt: skip

logging.getLogger("procrastinate").setLevel(logging.ERROR)
pool = {"max_size": order["concurrency"] + 4} if order["best"] else {}
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=order["url"], **pool))

starts = []
begun = 0


def say(line):
    print(json.dumps(line), flush=True)


@app.task(name="task", queue="default")
async def task(n):
    global begun
    if n >= 0:
        starts.append((n, time.time()))
    if order["sleep_ms"]:
        await asyncio.sleep(order["sleep_ms"] / 1000)
    begun += 1
    if begun == order["count"]:
        say({"handled": begun})


async def enqueue_one_call(numbers):
    deferrer = task.configure(priority=10 if order["urgent"] else 0)
    if len(numbers) == 1:
        await deferrer.defer_async(n=numbers[0])
    else:
        await deferrer.batch_defer_async(*({"n": n} for n in numbers))


async def enqueue():
    commits = []
    calls = set()
    began = time.time()
    offered = 0

    async def timed(numbers):
        await enqueue_one_call(numbers)
        at = time.time()
        commits.extend((number, at) for number in numbers)

    while offered < order["count"] and (not order["seconds"] or time.time() - began < order["seconds"]):
        size = min(order["batch"], order["count"] - offered)
        numbers = range(order["first"] + offered, order["first"] + offered + size)
        offered += size
        if not order["rate"]:
            await enqueue_one_call(numbers)
            continue
        calls.add(asyncio.create_task(timed(numbers)))
        await asyncio.sleep(max(0, began + offered / order["rate"] - time.time()))
    if calls:
        await asyncio.gather(*calls)
    say({"enqueued": offered, "seconds": time.time() - began, "commits": commits})


async def work():
    options = {"delete_jobs": "successful", "fetch_job_polling_interval": 0.5} if order["best"] else {}
    say({"ready": time.time()})
    worker = asyncio.create_task(
        app.run_worker_async(
            queues=["default"], concurrency=order["concurrency"], install_signal_handlers=False, **options
        )
    )
    read = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait({worker, read}, return_when=asyncio.FIRST_COMPLETED)
    if worker.done():
        worker.result()
        sys.exit("the worker ended by itself")
    say({"begun": begun, "starts": starts})
    # The database is thrown away next: nobody needs an orderly end.
    import os

    os._exit(0)


async def main():
    async with app.open_async():
        if order["do"] == "migrate":
            await app.schema_manager.apply_schema_async()
        elif order["do"] == "enqueue":
            await enqueue()
        else:
            await work()


asyncio.run(main())
