# SPDX-License-Identifier: GPL-2.0-or-later
#
"""Figures of what "bench.py --json" has written; see draw()."""

import json
import sys

from snaptest.bench.common import median
from snaptest.bench.measure import TITLES
from snaptest.units import GIB, MIB

try:
    import matplotlib
    matplotlib.use('svg')
    from matplotlib import pyplot   # pylint: disable=ungrouped-imports
except ImportError:
    sys.exit('python3-matplotlib is missing: scripts/install-deps plot')

# Small files: text is text, and the same figures give the same file.
pyplot.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'qemu-snap'})


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
    drawn = axes.barh(list(results),
                      [median(runs, key) for runs in results.values()])
    axes.bar_label(drawn, fmt='%.3g', padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel=label)


def run(results: dict, axes):
    axes.figure.set_figheight(2.5)
    bars(results, 'running', 'until the guest runs (s)', axes)


def completion(results: dict, axes):
    bars(results, 'rate', 'MB/s until all is loaded', axes)


def phases(results: dict, axes):
    """The peers of each phase, with a color each."""
    names = list(dict.fromkeys(name for peers in results.values()
                               for name in peers))
    colors = pyplot.get_cmap('tab20')
    for ax, (phase, peers) in zip(axes.flat, results.items()):
        ax.barh(list(peers), [median(runs, 'rate') for runs in peers.values()],
                color=[colors(names.index(name)) for name in peers])
        ax.invert_yaxis()
        ax.set(title=TITLES[phase], xlabel='GB/s of RAM that is not zero')
    for ax in axes.flat[len(results):]:
        ax.remove()


def growth(results: dict, axes):
    """Time and RSS over the size of RAM."""
    sizes = [result['size'] / GIB for result in results.values()]
    for phase in next(iter(results.values()))['phases']:
        runs = [result['phases'][phase] for result in results.values()]
        times = [median(r, 'stable') or median(r, 'time') for r in runs]
        rss = [median(r, 'rss') / MIB for r in runs]
        for ax, values in zip(axes.flat, (times, rss)):
            ax.plot(sizes, values, marker='.', label=TITLES[phase])
    for ax, label in zip(axes.flat, ('time (s)', 'RSS of qemu-snap (MiB)')):
        ax.set(xlabel='RAM of the guest (GiB)', ylabel=label, ylim=(0, None))
        ax.legend()


def stall(results: dict, axes):
    """The longest pauses of guest and monitor; a group for each way."""
    keys = {'longest': 'guest, longest', 'p99': 'guest, p99', 'qmp': 'QMP',
            'qmp-end': 'QMP, at the end'}
    for ax, (mode, ways) in zip(axes.flat, results.items()):
        for n, (key, label) in enumerate(keys.items()):
            values = [1e3 * (median(runs, key) or 0) for runs in ways.values()]
            ax.barh([y + n / 5 for y in range(len(ways))], values, 1 / 5,
                    label=label)
        ax.set_yticks([y + 0.3 for y in range(len(ways))], list(ways))
        ax.invert_yaxis()
        ax.set(title=mode, xlabel='ms', xscale='log', xlim=(0.1, None))
        ax.legend(loc='upper left', bbox_to_anchor=(1, 1))


# Parts, and the rows and columns of their figures
FIGURES = {run: (1, 1), completion: (1, 1), latency: (1, 1), requests: (1, 1),
           phases: (2, 2), growth: (1, 2), stall: (3, 1)}


def conditions(record: dict) -> str:
    """What the figures were measured with."""
    return (f'{record["command"]}, commit {record["commit"]}\n'
            f'medians of {record["runs"]}; {record["cpus"]} CPUs, load average '
            f'{record["load"]:.1f} at the start')


def draw(record: dict, prefix: str):
    """Draw each part of @record to a file of its own, @prefix-PART.svg."""
    for part, (rows, columns) in FIGURES.items():
        if part.__name__ in record:
            figure, axes = pyplot.subplots(
                rows, columns, figsize=(8 * columns, 5 * rows))
            part(record[part.__name__], axes)
            figure.supxlabel(conditions(record), fontsize='small')
            figure.tight_layout()
            figure.savefig(f'{prefix}-{part.__name__}.svg',
                           metadata={'Date': None})
            pyplot.close(figure)


if __name__ == '__main__':
    # python3 -m snaptest.plot FILE.json PREFIX
    with open(sys.argv[1], encoding='utf-8') as f:
        draw(json.load(f), sys.argv[2])
