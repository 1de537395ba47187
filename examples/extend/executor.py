"""Train functions in forked processes, eight at once, one process a trial."""

import signal
import time
from multiprocessing import Pipe, connection, context

import luthier as lt


class Forked:
    def start(self, work, on_reports):
        self.work, self.on_reports, self.capacity, self.running = work, on_reports, 8, {}

    def submit(self, jobs, parents, partials=None):
        for job in jobs:
            here, there = Pipe()
            process = context.ForkProcess(target=self.train, args=(there, job, parents, partials), daemon=True)
            process.start()
            there.close()  # or the death of the process would not end the pipe
            self.running[here] = process, job.number

    def train(self, pipe, job, parents, partials):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the study's, which then asks for its jobs back
        local = lt.execute.Local()
        local.start(self.work, lambda reports: pipe.send(reports) or pipe.recv())
        local.submit([job], parents, partials)
        for outcome in local.collect(None):
            pipe.send(outcome)

    def collect(self, timeout, why="process"):
        until, outcomes, ready = time.monotonic() + (timeout or 0), [], True
        while self.running and ready and (why == "asked" or not outcomes):
            ready = connection.wait(self.running, None if timeout is None else max(until - time.monotonic(), 0))
            for pipe in ready:
                try:
                    message = pipe.recv()
                    if not isinstance(message, lt.Result | lt.Lost):
                        pipe.send(self.on_reports(message))  # the numbers of the jobs to stop
                        continue
                except (EOFError, OSError):
                    message = lt.Lost(self.running[pipe][1], why, "its process died")
                outcomes.append(message)
                del self.running[pipe]
        return outcomes

    def give_back(self, seconds):
        for process, _ in self.running.values():
            process.kill()  # a function has no state to save
        return self.collect(seconds, "asked") + [lt.Lost(number, "asked") for _, number in self.running.values()]

    def close(self, wait=True):
        while self.running:
            self.running.popitem()[1][0].kill()


if __name__ == "__main__":
    space, settings = lt.Space(seconds=lt.Float(0.3, 0.4)), {"trials": 8, "executor": Forked(), "progress": False}
    history = lt.tune(lambda config: time.sleep(config["seconds"]) or 0.0, space=space, **settings).history
    print("8 trials at once:", history.asked.max() < history.ended.min())
