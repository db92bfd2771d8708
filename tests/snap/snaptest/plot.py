#
# This work is licensed under the terms of the GNU GPL, version 2 or later.
# See the COPYING file in the top-level directory.
#
"""Figures of what "bench.py --postcopy --json" has written; see draw()."""

import json
import sys

from .bench import median

try:
    import matplotlib
    matplotlib.use('svg')
    from matplotlib import pyplot   # pylint: disable=ungrouped-imports
except ImportError:
    sys.exit('python3-matplotlib is missing: scripts/install-deps plot')


def latency(channels: dict, axes):
    """Median and 99th percentile, by the share of the unrestrained rate."""
    for color, (name, settings) in enumerate(channels.items()):
        runs = [r for r in settings.values() if median(r, 'p50') is not None]
        full = median(settings['unrestrained'], 'rate')
        for key, line in (('p50', '-'), ('p99', '--')):
            points = sorted((median(r, 'rate') / full, median(r, key))
                            for r in runs)
            axes.plot(*zip(*points), line, marker='.', color=f'C{color}',
                      label=f'{name}, {key}')
    for limit in (120, 600):
        axes.axhline(limit, color='grey', linewidth=0.5)
    axes.set(xlabel='push rate / unrestrained push rate', yscale='log',
             ylabel='from request to placed page (µs)', xlim=(0, None))
    axes.legend()


def requests(guests: dict, axes):
    """How many requests, by what is pushed; a group for each guest."""
    cases = [(name, rate) for name, rates in guests.items() for rate in rates]
    policies = list(dict.fromkeys(
        what for name, rate in cases for what in guests[name][rate]))
    width = 0.8 / len(policies)
    for n, what in enumerate(policies):
        bars = [(x + n * width, median(guests[name][rate][what], 'requests'))
                for x, (name, rate) in enumerate(cases)
                if what in guests[name][rate]]
        axes.bar(*zip(*bars), width, label=what)
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(cases))],
                    [f'{name}\n{rate}' for name, rate in cases])
    # Also none at all can be seen
    axes.set(ylabel='requests in the first seconds', yscale='symlog')
    axes.legend(title='pushed')


def bars(results: dict, key: str, label: str, axes):
    """One bar for each of what is compared."""
    axes.barh(list(results), [median(runs, key) for runs in results.values()])
    axes.invert_yaxis()
    axes.set(xlabel=label)


def run(results: dict, axes):
    bars(results, 'running', 'until the guest runs (s)', axes)


def completion(results: dict, axes):
    bars(results, 'rate', 'MB/s until all is loaded', axes)


def draw(record: dict, prefix: str):
    """Draw each part of @record to a file of its own, @prefix-PART.svg."""
    for part in (run, completion, latency, requests):
        if part.__name__ in record:
            figure, axes = pyplot.subplots(figsize=(8, 5))
            part(record[part.__name__], axes)
            figure.tight_layout()
            figure.savefig(f'{prefix}-{part.__name__}.svg')
            pyplot.close(figure)


if __name__ == '__main__':
    # python3 -m snaptest.plot FILE.json PREFIX
    with open(sys.argv[1], encoding='utf-8') as f:
        draw(json.load(f), sys.argv[2])
