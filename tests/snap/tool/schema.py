#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# JSON: what the tool writes is what its schema says, member by member, and the
# schema says what programs have come to rely on.
#

import json
import os
import unittest

from snaptest import env
from snaptest.peers.destination import RUNNING, PostcopyTest
from snaptest.peers.streams import StreamBuilder
from snaptest.tool import sample
from snaptest.units import PAGE

from qapi.parser import QAPISchemaParser

SCHEMA = os.path.join(env('QEMU_TREE'), 'tools/snap/qapi/snap.json')

# Programs read these.  Members may be added here; none is to be changed, and
# none to be removed.
PROMISED = {
    'SnapInfo': {
        'complete': 'bool', 'format-version': 'uint32',
        'incompatible-features': 'uint64', 'compatible-features': 'uint64',
        'uuid': 'str', 'created': 'uint64', 'page-size': 'size',
        'live': 'bool', 'arrivals': 'uint64', 'arrivals-truncated': 'bool',
        '*machine': 'str', 'ram-blocks': ['SnapInfoBlock'],
        'device-state-size': 'size', 'devices': ['SnapInfoSection'],
        '*run-state': 'str', 'parts': 'any', 'working-set': 'uint64',
        'metadata': 'any'},
    'SnapInfoBlock': {
        'name': 'str', 'size': 'size', 'offset': 'size', 'page-size': 'size',
        'stored': 'size', 'zero': 'size'},
    'SnapInfoSection': {
        'name': 'str', 'instance': 'uint32', 'version': 'uint32',
        'size': 'size'},
    'SnapInfoPart': {'offset': 'size', 'length': 'size'},
    'SnapCheck': {
        'filename': 'str', 'pages-checked': 'uint64',
        'pages-corrupt': 'uint64', 'parts-corrupt': 'uint32',
        'check-errors': 'int', 'corruptions': 'int', 'leaks': 'int',
        'parts-repaired': 'uint32', 'leaks-fixed': 'int',
        '*first-error': 'str'},
    'SnapReport': {
        'verb': 'str', 'image': 'str', 'status': 'SnapReportStatus',
        '*error': 'str', '*uuid': 'str', 'milliseconds': 'int',
        'ram-bytes': 'size', 'stored-pages': 'uint64', 'zero-pages': 'uint64',
        'device-bytes': 'size', '*postcopy': 'SnapReportPostcopy'},
    'SnapReportStatus': ['completed', 'failed'],
    'SnapReportPostcopy': {
        'percent': 'uint32', 'run-us': 'int', 'complete-us': 'int',
        'precopy-pages': 'uint64', 'requested-pages': 'uint64',
        'working-set-pages': 'uint64', 'arrival-pages': 'uint64',
        'around-pages': 'uint64', 'linear-pages': 'uint64',
        'zero-requested-pages': 'uint64', 'requests': 'uint64',
        'requests-on-the-way': 'uint64', 'requests-repeated': 'uint64',
        'latency-us': 'SnapReportLatency'},
    'SnapReportLatency': {
        'count': 'uint64', 'p50': 'uint64', 'p99': 'uint64', 'max': 'uint64',
        'histogram': ['SnapReportOctave']},
    'SnapReportOctave': {'below-us': 'int', 'count': 'uint64'},
}

PART_NAMES = {'page table', 'arrival list', 'block table', 'configuration',
              'setup sections', 'metadata', 'device state',
              'device description', 'working set'}

BUILTIN = {
    'str': lambda value: isinstance(value, str),
    'bool': lambda value: isinstance(value, bool),
    'int': lambda value: is_number(value, -1 << 63, 1 << 63),
    'uint32': lambda value: is_number(value, 0, 1 << 32),
    'uint64': lambda value: is_number(value, 0, 1 << 64),
    'size': lambda value: is_number(value, 0, 1 << 64),
    'any': lambda value: True,
}


def is_number(value, minimum: int, limit: int) -> bool:
    return type(value) is int and minimum <= value < limit


def read_schema() -> dict:
    """Names of the types, and their members or values"""
    types = {}
    for expr in QAPISchemaParser(SCHEMA).exprs:
        name, = (expr[kind] for kind in ('struct', 'enum') if kind in expr)
        types[name] = expr['data']
    return types


class Schema:
    """A validator that remembers what it has seen of each type"""

    def __init__(self):
        self.types = read_schema()
        self.seen = set()
        self.absent = set()

    def faults(self, value, kind, where: str = ''):
        if isinstance(kind, list):
            if not isinstance(value, list):
                yield f'{where} is not a list: {value!r}'
                return
            for i, item in enumerate(value):
                yield from self.faults(item, kind[0], f'{where}[{i}]')
        elif kind in BUILTIN:
            if not BUILTIN[kind](value):
                yield f'{where} is not of type {kind}: {value!r}'
        elif isinstance(self.types[kind], list):
            self.seen.add((kind, value))
            if value not in self.types[kind]:
                yield f'{where} is not one of {self.types[kind]}: {value!r}'
        else:
            yield from self.struct_faults(value, kind, where or kind)

    def struct_faults(self, value, kind: str, where: str):
        if not isinstance(value, dict):
            yield f'{where} is not an object: {value!r}'
            return
        unknown = set(value)
        for member, of in self.types[kind].items():
            name = member.lstrip('*')
            unknown.discard(name)
            if name in value:
                self.seen.add((kind, name))
                yield from self.faults(value[name], of, f'{where}.{name}')
            elif member == name:
                yield f'{where} has no {name}'
            else:
                self.absent.add((kind, name))
        for name in unknown:
            yield f'{where} has {name}, which is unknown'

    def all_members(self) -> set:
        return {(kind, member.lstrip('*')) for kind, members in
                self.types.items() for member in members}

    def optional_members(self) -> set:
        return {(kind, member[1:]) for kind, members in self.types.items()
                for member in members if member.startswith('*')}


class Promises(unittest.TestCase):

    def test_schema_keeps_what_programs_read(self):
        self.assertEqual(read_schema(), PROMISED)


class Validator(unittest.TestCase):
    """The validator finds what it is there for."""

    GOOD = {'filename': 'x', 'pages-checked': 1, 'pages-corrupt': 0,
            'parts-corrupt': 0, 'check-errors': 0, 'corruptions': 0,
            'leaks': 0, 'parts-repaired': 0, 'leaks-fixed': 0}

    def faults(self, **change):
        value = {**self.GOOD, **change}
        value = {name.replace('_', '-'): member for name, member in
                 value.items() if member is not None}
        return list(Schema().faults(value, 'SnapCheck'))

    def test_validator_accepts_what_is_right(self):
        self.assertEqual(self.faults(), [])
        self.assertEqual(self.faults(first_error='damage'), [])

    def test_validator_finds_what_is_wrong(self):
        for change in ({'leaks': None}, {'leaks': '0'}, {'leaks': True},
                       {'leaks': 0.5}, {'filename': 3}, {'more': 1},
                       {'pages-checked': -1}, {'first_error': 1}):
            with self.subTest(change):
                self.assertEqual(len(self.faults(**change)), 1)


class SchemaOfOutput(PostcopyTest):

    def setUp(self):
        super().setUp()
        self.schema = Schema()

    def validate(self, value: dict, kind: str) -> dict:
        self.assertEqual(list(self.schema.faults(value, kind)), [])
        return value

    def info_of(self, builder: StreamBuilder, **kwargs) -> dict:
        self.save(builder.build(**kwargs))
        info = self.validate(self.info(), 'SnapInfo')
        self.assertLessEqual(set(info['parts']), PART_NAMES)
        for part in info['parts'].values():
            self.validate(part, 'SnapInfoPart')
        self.assertIsInstance(info['metadata'], dict)
        return info

    def check(self, *options: str, status: int = 0) -> dict:
        result = self.tool('check', '--output=json', self.image, *options)
        self.assertEqual(result.returncode, status, result.stderr)
        return self.validate(json.loads(result.stdout), 'SnapCheck')

    def reported(self, *args: str, status: int = 0, stdin: bytes = b''):
        path = self.path('report')
        result = self.tool(*args, '--report', path, stdin=stdin)
        self.assertEqual(result.returncode, status, result.stderr)
        with open(path, encoding='utf-8') as f:
            return self.validate(json.load(f), 'SnapReport')

    def load_by_postcopy(self):
        peer = self.connect('--fault-around=4', '--push=around,linear')
        peer.until(RUNNING)
        peer.request('pc.ram', 10 * PAGE)
        peer.until_answered()
        self.completes(peer)
        return self.validate(self.report(), 'SnapReport')

    def test_info_is_what_the_schema_says(self):
        self.info_of(sample())
        bare = StreamBuilder([('ram', PAGE)])
        self.assertNotIn('run-state', self.info_of(bare))

    def test_check_is_what_the_schema_says(self):
        self.save(sample().build(), self.image, '-O', 'raw')
        self.check()
        part = self.info()['parts']['device description']
        with open(self.image, 'r+b') as f:
            f.seek(part['offset'])
            f.write(b'#')
        self.assertEqual(self.check(status=2)['parts-corrupt'], 1)
        self.assertEqual(self.check('--repair')['parts-repaired'], 1)

    def test_reports_are_what_the_schema_says(self):
        data = sample().build()
        self.reported('save', self.image, stdin=data)
        self.reported('load', self.image)
        self.reported('save', self.image, stdin=data[:100], status=1)
        self.reported('load', self.path('nothing'), status=1)
        self.take(sample())
        report = self.load_by_postcopy()
        self.assertTrue(report['postcopy']['latency-us']['histogram'])

    def test_schema_has_nothing_more(self):
        """Each member was seen, and each that is optional was left out."""
        self.test_info_is_what_the_schema_says()
        self.test_check_is_what_the_schema_says()
        self.test_reports_are_what_the_schema_says()
        self.assertEqual(self.schema.all_members() - self.schema.seen, set())
        # All streams have a machine type here.
        self.assertEqual(self.schema.optional_members() - self.schema.absent,
                         {('SnapInfo', 'machine')})


if __name__ == '__main__':
    unittest.main(verbosity=2)
