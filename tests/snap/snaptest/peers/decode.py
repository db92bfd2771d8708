# SPDX-License-Identifier: GPL-2.0-or-later
#
# What a migration stream says, independent of the tool's own parser
#
"""Take a migration stream apart, to compare streams by what they mean.

    stream = Stream(data)
    stream.pages[('pc.ram', 0x1000)]    # bytes, b'' for a zero page
"""

import struct

from snaptest.peers.streams import (COMMAND, CONFIGURATION, CONTINUE, END, EOF,
                                    EOS, FOOTER, FULL, MEM_SIZE, PAGE, PART,
                                    START, SUBSECTION, VMDESC, ZERO)

FLAGS = 0x3ff


class Stream:
    """A whole stream, or the part of one that is there

    header:  file header and configuration section, as they came
    setup:   sections up to RAM's first page; of RAM's START only the head
    blocks:  name → length, in the stream's order
    pages:   (block, offset) → last content; b'' for a zero page
    devices: sections other than RAM after its first page
    vmdesc:  JSON text, None for none
    """

    def __init__(self, data: bytes, page_bits: int = 12):
        self.data, self.pos = data, 0
        self.page_size = 1 << page_bits
        self.blocks, self.pages = {}, {}
        self.commands = []
        self.setup = self.devices = b''
        self.vmdesc = None
        self.ram_id = self.block = None
        self.paged = self.ended = False
        self.header = self.parse_header()
        while self.parse_section():
            pass
        if self.pos != len(data):
            raise ValueError(f'{len(data) - self.pos} bytes after the end')

    def take(self, length: int) -> bytes:
        self.pos += length
        if self.pos > len(self.data):
            raise EOFError('the stream is cut')
        return self.data[self.pos - length:self.pos]

    def number(self, form: str) -> int:
        return struct.unpack('>' + form, self.take(struct.calcsize(form)))[0]

    def name(self) -> str:
        return self.take(self.number('B')).decode()

    def peek(self) -> int:
        return self.data[self.pos] if self.pos < len(self.data) else -1

    def parse_header(self) -> bytes:
        if self.take(8) != struct.pack('>II', 0x5145564d, 3):
            raise ValueError('not a migration stream')
        if self.peek() == CONFIGURATION:
            self.take(1)
            self.take(self.number('I'))
            while self.peek() == SUBSECTION:
                self.take(1)
                name = self.name()
                self.take(4)
                if name == 'configuration/target-page-bits':
                    self.page_size = 1 << self.number('I')
                else:
                    self.take({'configuration/uuid': 16}[name])
        return self.data[:self.pos]

    def parse_section(self) -> bool:
        start = self.pos
        kind = self.number('B')
        if kind == EOF:
            if self.pos < len(self.data) and self.number('B') == VMDESC:
                self.vmdesc = self.take(self.number('I'))
            return False
        if kind == COMMAND:
            command = self.number('H')
            self.commands.append((command, self.take(self.number('H'))))
            return True
        section = self.number('I')
        if kind in (START, FULL):
            name = self.name()
            self.take(8)
            if name == 'ram':
                self.ram_id = section
                self.setup += self.data[start:self.pos]
        if section == self.ram_id:
            self.paged = self.paged or kind in (PART, END)
            self.ended = self.ended or kind == END
            self.parse_ram()
            if self.peek() == FOOTER:
                self.skip_to_footer(section)
            return True
        self.skip_to_footer(section)
        if self.paged:
            self.devices += self.data[start:self.pos]
        else:
            self.setup += self.data[start:self.pos]
        return True

    def skip_to_footer(self, section: int):
        """Payloads of the tests' devices have nothing like a footer"""
        footer = struct.pack('>BI', FOOTER, section)
        self.pos = self.data.index(footer, self.pos) + len(footer)

    def parse_ram(self):
        while True:
            word = self.number('Q')
            flags, offset = word & FLAGS, word & ~FLAGS
            if flags == EOS:
                return
            if flags == MEM_SIZE:
                self.parse_blocks(offset)
                continue
            if not flags & CONTINUE:
                self.block = self.name()
            flags &= ~CONTINUE
            if offset >= self.blocks[self.block] or offset % self.page_size:
                raise ValueError(f'page at {offset:#x} of {self.block}')
            if flags == PAGE:
                page = self.take(self.page_size)
                if page == bytes(self.page_size):
                    page = b''
            elif flags == ZERO and self.number('B') == 0:
                page = b''
            else:
                raise ValueError(f'record {word:#x}')
            self.pages[self.block, offset] = page

    def parse_blocks(self, total: int):
        while total:
            name = self.name()
            self.blocks[name] = self.number('Q')
            total -= self.blocks[name]
            if self.peek() == 0 and \
                    not self.data[self.pos + 7] & (EOS | PAGE | ZERO):
                self.take(8)        # page size
