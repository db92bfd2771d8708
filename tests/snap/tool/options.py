#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The command line: what users have been promised, and what they get wrong.
#

import json
import os
import re
import stat
import subprocess
import unittest
import uuid

from snaptest import TIMEOUT, env
from snaptest.tool import REFUSAL, ToolTest, sample, small
from snaptest.units import MIB

VERBS = ('save', 'load', 'info', 'check', 'embed')
MAN_PAGE = os.path.join(os.path.dirname(os.path.realpath(__file__)),
                        '../../../docs/tools/qemu-snap.rst')


class CommandLine(ToolTest):

    def shell(self, line: str, stdin: bytes = b'') -> bytes:
        """A command line as exec: runs it"""
        path = os.path.dirname(env('QEMU_SNAP')) + ':' + os.environ['PATH']
        result = subprocess.run(['/bin/sh', '-c', line], input=stdin,
                                cwd=self.dir, capture_output=True, check=False,
                                timeout=TIMEOUT,
                                env=dict(os.environ, PATH=path))
        self.assertEqual((result.returncode, result.stderr), (0, b''))
        return result.stdout

    def test_command_lines_of_the_contract_work(self):
        data = sample().build()
        out = self.shell('qemu-snap -s 2M --cache=writeback --aio=threads '
                         'save image.qcow2', data)
        self.assertEqual(out, b'')
        self.assert_same_stream(data, self.shell(
            'qemu-snap --cache=none --aio=native load image.qcow2'))

    def test_options_may_stand_anywhere(self):
        data = sample().build()
        for line in ('-s 2M -t none save image', 'save -s 2M -t none image',
                     'save image -s 2M -t none', '-s2M save -tnone image',
                     'save --image-size 2M image --cache none',
                     '-t none -s 2M -- save image'):
            with self.subTest(line):
                self.shell('qemu-snap ' + line, data)
                self.assert_same_stream(data, self.load())
                os.unlink(self.image)
        self.shell('POSIXLY_CORRECT=1 qemu-snap save image -s 2M', data)
        self.assert_same_stream(data, self.load())

    def test_long_options_may_be_abbreviated(self):
        data = sample().build()
        self.shell('qemu-snap --image-s=2M --ca=none --ai=native save image '
                   '--repo report --target-page=4k', data)
        self.assert_same_stream(data, self.shell(
            'qemu-snap --ca none --repo=report load image'))
        self.assertIn(b'"complete": true', self.shell(
            'qemu-snap info --outp=json --forc image'))

    def test_raw_and_qcow2_are_written_and_probed(self):
        data = sample().build()
        self.save(data, self.image, '-O', 'raw')
        self.assert_same_stream(data, self.load(self.image, '-f', 'raw'))
        self.assert_same_stream(data, self.load())
        self.save(data, self.image, '-o', 'cluster_size=4k,compat=0.10')
        self.assert_same_stream(data, self.load(self.image, '-f', 'qcow2'))
        info = json.loads(self.img('info', '--output=json', self.image).stdout)
        self.assertEqual(info['cluster-size'], 4096)
        self.refused('load', '-f', 'raw', self.image, causes=[self.image])

    def test_image_options_name_what_to_load_and_save(self):
        data = sample().build()
        self.save(data)
        opts = f'driver=qcow2,file.driver=file,file.filename={self.image}'
        self.assert_same_stream(data, self.load(opts, '--image-opts'))
        self.save(small(), opts, '-n', '--image-opts')
        self.assert_same_stream(small(), self.load(), 10)

    def test_image_in_use_is_refused_but_for_force_share(self):
        self.save(small())
        with subprocess.Popen([env('QEMU_IO'), self.image],
                              stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as writer:
            writer.stdout.read(7)       # its prompt: the image is open
            for verb in ('load', 'info', 'check'):
                self.refused(verb, self.image, causes=[self.image, 'lock'])
            self.refused('save', '-n', self.image, stdin=small(),
                         causes=[self.image, 'lock'])
            loaded = self.load(self.image, '-U')
            writer.stdin.close()
        self.assert_same_stream(small(), loaded, 10)

    def test_quiet_silences_progress(self):
        data = sample([('ram', 8 * MIB)]).build()
        for verb, stdin in (('save', data), ('load', b'')):
            result = self.tool(verb, '-p', self.image, stdin=stdin)
            self.assertEqual(result.returncode, 0)
            self.assertIn(b'100', result.stderr)
            result = self.tool(verb, '-p', '-q', self.image, stdin=stdin)
            self.assertEqual((result.returncode, result.stderr), (0, b''))
        self.assertEqual(self.succeeds('check', '-q', self.image), b'')

    def test_help_and_version_are_printed(self):
        for option in ('-h', '--help'):
            out = self.succeeds(option)
            for word in (b'save', b'load', b'info', b'check', b'--report'):
                self.assertIn(word, out)
        self.assertRegex(self.succeeds('-V'), rb'^qemu-snap version \d')

    def usage(self, *args: str, cause: str = ''):
        before = self.tree()
        result = self.tool(*args, stdin=small())
        self.assertGreater(result.returncode, 0, args)
        # A destination would wait for it indefinitely.
        load = next((a for a in args if a in VERBS), '') == 'load'
        self.assertEqual(result.stdout, REFUSAL if load else b'', args)
        lines = result.stderr.decode().splitlines()
        self.assertIn(cause, lines[0])
        self.assertRegex(lines[0], 'qemu-snap: ')
        self.assertEqual(self.tree(), before, args)

    def test_wrong_arguments_are_named(self):
        self.save(small())
        for args, cause in (((), 'Missing verb'),
                            (('save',), "'save' needs the name of an image"),
                            (('save', self.image, 'x'), "argument 'x'"),
                            (('frobnicate',), 'frobnicate'),
                            (('frobnicate', self.image), 'frobnicate'),
                            (('--frob', 'save', self.image), '--frob'),
                            (('--output=xml', 'info', self.image), 'output'),
                            (('--i', 'save', self.image), '--i'),
                            (('save', self.image, '-s'), "'s'")):
            with self.subTest(args):
                self.usage(*args, cause=cause)

    def test_option_for_another_verb_is_named(self):
        self.save(small())
        for option, verb, name in (
                ('-s1M', 'load', '-s (--image-size)'),
                ('--image-size=1M', 'load', '-s (--image-size)'),
                ('-n', 'info', '-n (--target-is-existing)'),
                ('-fraw', 'save', '-f (--format)'),
                ('-U', 'save', '-U (--force-share)'),
                ('--output=json', 'load', '--output'),
                ('--repair', 'info', '--repair'),
                ('--postcopy', 'save', '--postcopy'),
                (f'--uuid={uuid.UUID(int=1)}', 'check', '--uuid')):
            for args in ((option, verb, self.image), (verb, option, self.image),
                         (verb, self.image, '-q', option)):
                with self.subTest(args):
                    self.usage(*args,
                               cause=f"{name} cannot be used with '{verb}'")

    def test_option_that_needs_postcopy_is_named(self):
        self.save(small())
        for option, name in (('--push=none', '--push'),
                             ('-r1M', '-r (--rate-limit)'),
                             ('--preempt', '--preempt'),
                             ('--backlog=64k', '--backlog'),
                             ('--fault-around=1', '--fault-around'),
                             ('--record', '--record'),
                             ('--host-page-size=2M', '--host-page-size')):
            with self.subTest(option):
                self.usage('load', option, self.image,
                           cause=f'{name} needs --postcopy or --resume')

    def test_record_of_a_remote_image_needs_a_file(self):
        for option in ('--postcopy', '--resume'):
            result = self.tool(option, '--record', 'load',
                               'nbd:unix:/nowhere')
            self.assertEqual((result.returncode, result.stdout),
                             (1, REFUSAL if option == '--postcopy' else b''))
            self.assertIn(b"--record needs --working-set=FILE with "
                          b"'nbd:unix:/nowhere'", result.stderr)

    def test_wrong_resumption_sends_nothing(self):
        """A byte would end what is being resumed."""
        self.save(small())
        for args, cause in (
                (['load', '--resume', '--postcopy=5'], '--postcopy=5 cannot'),
                (['load', '--res', '--frob'], '--frob'),
                (['load', '--uri=fd:7', '--frob'], '--frob')):
            with self.subTest(args):
                result = self.tool(*args, self.image)
                self.assertEqual((result.returncode, result.stdout), (1, b''))
                self.assertIn(cause, result.stderr.decode())

    def test_argument_without_equals_sign_is_recognised(self):
        """Optional arguments need one, as getopt_long() has it."""
        self.save(small())
        for args in (('--postcopy', '50', 'load', self.image),
                     ('load', '--postcopy', '50', self.image),
                     ('load', self.image, '--postcopy', '50'),
                     ('load', self.image, '--postcopy', '50', '-q'),
                     ('--postcopy', '50', 'load')):
            with self.subTest(args):
                self.usage(*args, cause='--postcopy=50')
        self.usage('--record', '5', '--postcopy', 'load', self.image,
                   cause='--record=5')
        # Neither a verb nor an image is taken for such an argument.
        for args in (('--postcopy', 'load', self.image, 'x'),
                     ('load', '--postcopy', self.image, 'x')):
            with self.subTest(args):
                self.usage(*args, cause="argument 'x'")

    def test_dash_is_no_file(self):
        self.save(small())
        for verb, option in (('save', '--report'), ('load', '--report'),
                             ('load', '--working-set'),
                             ('embed', '--working-set')):
            with self.subTest((verb, option)):
                self.usage(verb, option, '-', self.image, cause=option)

    def test_wrong_value_is_named_with_its_option(self):
        self.save(small())
        for verb, option, value, expected in (
                ('save', 'image-size', '0', 'a size'),
                ('save', 'target-page-size', '3000', 'from 1k to 64k'),
                ('save', 'report', '-', "'./-'"),
                ('load', 'postcopy', '101', 'from 0 to 100'),
                ('load', 'resume', 'x', 'a UUID'),
                ('load', 'push', 'all', 'working-set, arrivals, around'),
                ('load', 'fault-around', '257', 'from 0 to 256'),
                ('load', 'rate-limit', 'fast', 'a size'),
                ('load', 'backlog', '-1', 'a size'),
                ('load', 'record', '+5', 'from 0 to 86400'),
                ('load', 'multifd-channels', '0', 'from 1 to 255'),
                ('load', 'uuid', '1', 'a UUID'),
                ('info', 'output', 'xml', 'human or json')):
            with self.subTest((option, value)):
                self.refused(verb, f'--{option}={value}', self.image,
                             causes=[f"Invalid --{option} '{value}': expected ",
                                     expected])

    def test_wrong_page_size_is_refused(self):
        self.save(small())
        for size in ('0', '3000', '512', '128k', '1G', 'x', '-4096'):
            with self.subTest(size):
                self.usage('save', self.image, f'--target-page-size={size}',
                           cause=f"'{size}'")

    def test_wrong_value_of_an_option_is_named(self):
        self.save(small())
        for verb in ('save', 'load', 'info', 'check'):
            self.refused(verb, '-t', 'sometimes', self.image, stdin=small(),
                         causes=[self.image, "'sometimes'"])
            self.refused(verb, '--aio=magic', self.image, stdin=small(),
                         causes=[self.image, "'magic'"])
        self.refused('save', '-O', 'nonsense', self.image, stdin=small(),
                     causes=[self.image, "'nonsense'"])
        self.refused('save', '-o', 'nonsense=1', self.image, stdin=small(),
                     causes=[self.image, 'nonsense'])
        self.refused('load', '-f', 'nonsense', self.image,
                     causes=[self.image, 'nonsense'])
        self.refused('load', '--uri=tcp:x', self.image, causes=['tcp:x'])
        self.refused('load', '--uri=fd:99', self.image, causes=['99'])
        self.refused('load', f'--uri=unix:{self.dir}/' + 'x' * 200, self.image)
        self.refused('save', f'--uri=fd:{1 << 40}', self.image)


class Help(ToolTest):

    # The letter or '', the long name, and the argument or ''
    OPTION = re.compile(r'^  (?:-(\w), )?--([\w-]+)(\S*)', re.M)

    # Arguments that are right, of options that need one
    VALUES = {'cache': 'none', 'aio': 'threads', 'trace': 'snap_none',
              'object': 'secret,id=s,data=x', 'uri': 'fd:0',
              'report': 'report', 'image-size': '1M', 'target-format': 'raw',
              'options': 'cluster_size=4k', 'target-page-size': '4k',
              'push': 'none', 'fault-around': '1', 'rate-limit': '1M',
              'backlog': '64k', 'host-page-size': '2M',
              'multifd-channels': '2', 'uuid': str(uuid.UUID(int=1)),
              'working-set': 'ws', 'format': 'raw', 'output': 'json'}

    def options(self, *args: str) -> list[tuple[str, str]]:
        """Letters and names of the options that help lists"""
        out = self.succeeds(*args).decode()
        return [(o[0], o[1]) for o in self.OPTION.findall(out)]

    def verb_options(self) -> dict[str, list[tuple[str, str]]]:
        return {verb: self.options(verb, '--help') for verb in VERBS}

    def manual(self) -> dict[tuple[str, str], set[str]]:
        """The verbs that each option is for, as the man page says"""
        options = {}
        verbs = set()
        with open(MAN_PAGE, encoding='utf-8') as f:
            for line in f:
                if line == 'For all verbs:\n':
                    verbs = set(VERBS)
                elif re.match('For ``.*:$', line):
                    verbs = set(re.findall('``(\\w+)``', line))
                option = re.match(r'.. option:: (?:-(\w), )?--([\w-]+)', line)
                if option:
                    options[option[1] or '', option[2]] = verbs
        return options

    def test_help_fits_into_80_columns(self):
        for args in (('--help',), *((verb, '--help') for verb in VERBS)):
            for line in self.succeeds(*args).decode().splitlines():
                if 'http' not in line:
                    self.assertLess(len(line), 80, line)

    def test_each_option_is_in_one_group(self):
        out = self.succeeds('--help').decode()
        headings = re.findall('^(?:Options|[a-z, ]+):$', out, re.M)
        self.assertEqual(sorted(headings), sorted(
            ['Options:', 'save, load:', 'save:', 'load:', 'load, embed:',
             'load, info, check, embed:', 'load, info, check:', 'info, check:',
             'check:']))
        options = self.options('--help')
        self.assertEqual(len(options), len(set(options)))

    def test_verbs_are_those_of_the_manual(self):
        helped = {}
        for verb, options in self.verb_options().items():
            self.assertEqual(len(options), len(set(options)), verb)
            for option in options:
                helped.setdefault(option, set()).add(verb)
        self.assertEqual(helped, self.manual())
        self.assertEqual(set(self.options('--help')), set(helped))

    def test_what_is_not_in_help_is_refused(self):
        self.save(small())
        arguments = {o[1]: o[2] for o in self.OPTION.findall(
            self.succeeds('--help').decode())}
        self.assertEqual({name for name, argument in arguments.items()
                          if argument.startswith('=')}, set(self.VALUES))
        for verb, options in self.verb_options().items():
            for name in set(arguments) - {o[1] for o in options}:
                with self.subTest((verb, name)):
                    option = f'--{name}'
                    if name in self.VALUES:
                        option += f'={self.VALUES[name]}'
                    result = self.tool(verb, option, self.image)
                    self.assertEqual(result.returncode, 1)
                    self.assertRegex(result.stderr.decode(),
                                     rf"--{name}\)? cannot be used with "
                                     rf"'{verb}'")

    def test_what_needs_postcopy_has_a_section_of_its_own(self):
        out = self.succeeds('load', '--help').decode()
        section = out.partition('With --postcopy or --resume:\n')[2]
        section = section.partition('\n\n')[0]
        self.assertEqual({o[1] for o in self.OPTION.findall(section)},
                         {'preempt', 'push', 'fault-around', 'rate-limit',
                          'backlog', 'record', 'host-page-size'})
        for verb in set(VERBS) - {'load'}:
            self.assertNotIn(b'--postcopy', self.succeeds(verb, '--help'))

    def test_help_is_that_of_the_verb_wherever_it_stands(self):
        whole = self.succeeds('--help')
        self.save(small())
        before = self.tree()
        for verb in VERBS:
            out = self.succeeds(verb, '--help')
            self.assertIn(f'qemu-snap [options] {verb} FILE'.encode(), out)
            for args in ((verb, '-h'), ('--help', verb), ('-h', verb),
                         (verb, '--he'), (verb, self.image, '--help'),
                         (verb, '--help', self.image),
                         ('-q', verb, '-t', 'none', '-h', '--frob'),
                         (verb, '-qh')):
                with self.subTest(args):
                    self.assertEqual(self.succeeds(*args, stdin=small()), out)
        for args in (('-h',), ('frobnicate', '--help'), ('-q', '--help'),
                     ('--help', '-q', 'save'), ('--report', 'load', '-h'),
                     ('--help', '--frob')):
            with self.subTest(args):
                self.assertEqual(self.succeeds(*args), whole)
        self.assertEqual(self.tree(), before)


class ReportFile(ToolTest):

    def test_report_goes_into_a_fifo_and_does_not_replace_it(self):
        fifo = self.path('fifo')
        os.mkfifo(fifo)
        fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, fd)
        self.save(small(), self.image, '--report', fifo)
        self.assertEqual(json.loads(os.read(fd, 65536))['status'], 'completed')
        self.assertTrue(stat.S_ISFIFO(os.lstat(fifo).st_mode))


class CacheAndAio(ToolTest):

    def test_each_cache_and_aio_mode_works_or_is_refused(self):
        """All of cache and aio, where this system has O_DIRECT."""
        data = sample([('ram', 4 * MIB)]).build()
        for cache in ('none', 'writeback', 'writethrough', 'directsync',
                      'unsafe'):
            for aio in ('threads', 'native', 'io_uring'):
                with self.subTest(f'{cache} {aio}'):
                    modes = ['-t', cache, '--aio', aio]
                    if aio == 'native' and cache not in ('none', 'directsync'):
                        self.refused('save', *modes, self.path('new'),
                                     stdin=data, causes=['new', 'cache'])
                        continue
                    self.save(data, self.image, *modes)
                    self.assert_same_stream(data,
                                            self.load(self.image, *modes))
                    self.succeeds('check', *modes, self.image)


if __name__ == '__main__':
    unittest.main(verbosity=2)
