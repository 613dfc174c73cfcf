"""The same calls with `await`: a Job waits in threads and in event loops alike."""

import asyncio

import socaity
from socaity_server import JobProgress, SocaityRouter

router = SocaityRouter()


@router.add_route("/square")
async def square(number: int) -> int:
    """The square of a number."""
    await asyncio.sleep(0.1)
    return number * number


@router.add_route("/count", queue_size=10)
async def count(job_progress: JobProgress, to: int) -> int:
    """A job with a queue, progress and a log."""
    for number in range(to):
        job_progress.progress = (number + 1) / to
        job_progress.log(f"at {number + 1}")
        await asyncio.sleep(0.05)
    return to


async def main() -> None:
    """Call one after the other, several at once, and watch a job."""
    async with socaity.connect(router, progress=False) as service:
        print(await service.square(3))
        print(await socaity.gather(*[service.square(number) for number in range(10)]))

        async for job in socaity.as_completed([service.square(4), service.square(5)]):
            print(job.status, await job)

        job = service.count(3)
        print(await job, job.progress.fraction, job.logs)

        job = service.count(1000)
        job.cancel()
        try:
            await job
        except socaity.JobCancelled as error:
            print("cancelled:", error)


asyncio.run(main())
