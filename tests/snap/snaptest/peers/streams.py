# SPDX-License-Identifier: GPL-2.0-or-later
#
# Migration streams put together by hand, for tests of the tool
#
"""Build QEMU migration streams as bytes, without a VM.

    stream = StreamBuilder([('pc.ram', 4 << 20), ('vga.vram', 1 << 20)])
    stream.page('pc.ram', 0, b'\\xaa' * 4096)
    stream.zero('pc.ram', 4096)
    stream.device('cpu', b'state')
    data = stream.build(end=True)
"""

import json
import struct

EOF, START, PART, END, FULL, SUBSECTION, VMDESC, CONFIGURATION, COMMAND = \
    range(9)
FOOTER = 0x7e

ZERO, MEM_SIZE, PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
OPEN_RETURN_PATH, PING, SWITCHOVER_START = 1, 2, 11

RAM_ID = 2


def name8(name: str) -> bytes:
    """A name with its length in one byte"""
    data = name.encode()
    return struct.pack('>B', len(data)) + data


def command(number: int, data: bytes = b'') -> bytes:
    return struct.pack('>BHH', COMMAND, number, len(data)) + data


def run_state_payload(state: str) -> bytes:
    """Payload of the "globalstate" section"""
    return struct.pack('>I32s68x', len(state) + 1, state.encode())


class StreamBuilder:
    """A stream whose parts can be given in any order but that of pages

    blocks: (name, length) or (name, length, announced page size)
    page_bits: log2 of the target page size, stated in the stream unless 12
    """

    def __init__(self, blocks, page_bits: int = 12, machine: str = 'pc',
                 footers: bool = True):
        self.blocks = [tuple(block) + (0,) * (3 - len(block))
                       for block in blocks]
        self.page_bits = page_bits
        self.page_size = 1 << page_bits
        self.machine = machine
        self.footers = footers
        self.subsections = b''
        self.commands = b''
        self.early_sections = b''
        self.devices = b''
        self.parts = []
        self.next_id = RAM_ID + 1
        if page_bits != 12:
            self.subsection('configuration/target-page-bits',
                            struct.pack('>I', page_bits))

    # --- what comes before RAM's pages ---

    def subsection(self, name: str, payload: bytes):
        """Add a subsection of the configuration"""
        self.subsections += struct.pack('>B', SUBSECTION) + name8(name) + \
            struct.pack('>I', 1) + payload

    def open_return_path(self):
        """Announce that the source waits for an answer"""
        self.commands += command(OPEN_RETURN_PATH)

    def early(self, name: str, payload: bytes):
        """Add a FULL section between RAM's START and its first page"""
        self.early_sections += self._full(name, payload)

    # --- RAM ---

    def page(self, block: str, offset: int, data: bytes):
        assert len(data) == self.page_size
        self._record(block, offset | PAGE, data)

    def zero(self, block: str, offset: int):
        self._record(block, offset | ZERO, b'\0')

    def fill(self, block: str, fill: int, offset: int = 0, length=None):
        """Pages full of the byte @fill, by default the whole block"""
        if length is None:
            length = self.block_length(block) - offset
        for at in range(offset, offset + length, self.page_size):
            self.page(block, at, bytes([fill]) * self.page_size)

    def end_part(self):
        """Let what follows be in a section of its own"""
        self.parts.append([])

    # --- device state ---

    def device(self, name: str, payload: bytes):
        """Add a FULL section after RAM"""
        self.devices += self._full(name, payload)

    def run_state(self, state: str):
        self.device('globalstate', run_state_payload(state))

    # --- the result ---

    def build(self, end: bool = False, vmdesc=None,
              eof: bool = True) -> bytes:
        """The whole stream

        end: END for RAM, as in precopy; a background snapshot has none
        vmdesc: description as an object; False for none at all
        """
        data = self.header() + self.commands + self.ram_start()
        data += self.early_sections
        for part in self.parts or [[]]:
            data += self.ram_section(PART, b''.join(part))
        if end:
            data += command(SWITCHOVER_START) + self.ram_section(END, b'')
        data += self.devices or self._full('timer', bytes(16))
        if eof:
            data += bytes([EOF]) + self.description(vmdesc)
        return data

    def header(self) -> bytes:
        """File header and configuration section"""
        machine = self.machine.encode()
        return struct.pack('>IIBI', 0x5145564d, 3, CONFIGURATION,
                           len(machine)) + machine + self.subsections

    def ram_start(self) -> bytes:
        data = struct.pack('>BI', START, RAM_ID) + name8('ram') + \
            struct.pack('>IIQ', 0, 4,
                        sum(block[1] for block in self.blocks) | MEM_SIZE)
        for name, length, page_size in self.blocks:
            data += name8(name) + struct.pack('>Q', length)
            if page_size:
                data += struct.pack('>Q', page_size)
        return data + struct.pack('>Q', EOS) + self._footer(RAM_ID)

    def ram_section(self, kind: int, records: bytes) -> bytes:
        return struct.pack('>BI', kind, RAM_ID) + records + \
            struct.pack('>Q', EOS) + self._footer(RAM_ID)

    def description(self, vmdesc=None) -> bytes:
        if vmdesc is False:
            return b''
        text = json.dumps(vmdesc or {'page_size': self.page_size,
                                     'devices': []}).encode()
        return struct.pack('>BI', VMDESC, len(text)) + text

    def block_length(self, name: str) -> int:
        return next(block[1] for block in self.blocks if block[0] == name)

    # --- pieces ---

    def _record(self, block: str, word: int, data: bytes):
        if not self.parts:
            self.parts.append([])
        self.parts[-1].append(struct.pack('>Q', word) + name8(block) + data)

    def _full(self, name: str, payload: bytes) -> bytes:
        section = self.next_id
        self.next_id += 1
        return struct.pack('>BI', FULL, section) + name8(name) + \
            struct.pack('>II', 0, 1) + payload + self._footer(section)

    def _footer(self, section: int) -> bytes:
        return struct.pack('>BI', FOOTER, section) if self.footers else b''
