# SPDX-License-Identifier: GPL-2.0-or-later
#
"""
Guests: a real Linux, and a few dozen bytes of machine code per architecture.

The machine code, Loop, rewrites a working set of pages forever, with a
generation number that says when:

    for (gen = 1; ; gen++) {
        mailbox->gen = gen;
        page = mailbox->base;
        for (n = mailbox->count; n > 0; n--, page += 4096) {
            value = (gen + n) & 3 ? gen : 0;
            first word of page = last word of page = value;
            for (d = mailbox->delay; --d >= 0; ) { }
        }
    }

All other words of the working set stay zero, so that a page becomes zero
every fourth generation.  At any one instant the first k pages are of one
generation and the rest of the one before: a snapshot that is torn shows.

Access, for x86 only, touches pages out of order, for benches; how often it
has done so is its .count():

    for (x = 0, n = 1; ; n++) {
        x = x * 1664525 + 1013904223;
        page = mailbox->base + ((x >> mailbox->shift) & mailbox->mask) * 4096;
        read first word of page;
        mailbox->count = n;
        if (!(n & mailbox->reads))
            first word of page = n;
        for (d = mailbox->delay; --d >= 0; ) { }
    }

Clock, for x86 only and for benches as well, is a guest that sees how long it
was kept from running, while it touches one page after the other:

    for (n = 0; ; n++) {
        if (mailbox->reset)
            clear longest, reset and histogram, and read the clock;
        page = mailbox->base + ((n >> mailbox->shift) & mailbox->mask) * 4096;
        first word of page = mailbox->count = n;
        since = rdtsc() - mailbox->tsc;
        mailbox->tsc += since;
        units = since / 64 + 8;
        mailbox->longest = max(mailbox->longest, units);
        mailbox->histogram[bucket of units]++;
    }

There are eight buckets from each power of two to the next, from 8 on.
"""

import os
import re
import stat
import struct
import time
from typing import NamedTuple

from snaptest import TIMEOUT, env
from snaptest.units import MIB, PAGE
from snaptest.vm.ram import Ram
from snaptest.waiting import wait_until

MAILBOX = 3 * MIB           # offsets in RAM; up to 4 MiB belongs to the guest
CODE = 2 * MIB
WORKING_SET = 4 * MIB


def x86_rom(code: bytes) -> bytes:
    """A firmware image of 64 KiB whose reset vector leads to 32-bit @code."""
    gdt = 0x100
    start32 = 0x40
    start16 = bytes.fromhex(
        'fa'                    # cli
        '662e0f011620 01'       # lgdtl %cs:0x120
        '0f20c0'                # mov %cr0, %eax
        '0c01'                  # or $1, %al
        '0f22c0'                # mov %eax, %cr0
        '66ea') \
        + struct.pack('<IH', 0xffff0000 + start32, 8)   # ljmpl $8, $start32
    code = bytes.fromhex(
        '66b81000'              # mov $0x10, %ax
        '8ed8 8ec0 8ed0'        # mov %ax, %ds; %es; %ss
        'be00003000') \
        + code                  # mov $MAILBOX, %esi
    rom = bytearray(64 << 10)
    rom[:len(start16)] = start16
    rom[start32:start32 + len(code)] = code
    struct.pack_into('<QQQ', rom, gdt, 0,
                     0x00cf9b000000ffff,        # 0x08: flat code
                     0x00cf93000000ffff)        # 0x10: flat data
    struct.pack_into('<HI', rom, 0x120, 23, 0xffff0000 + gdt)
    rom[0xfff0:0xfff3] = struct.pack('<BH', 0xe9, 0x10000 - 0xfff3)
    return bytes(rom)


X86_LOOP = bytes.fromhex(
    '31db'                      # xor %ebx, %ebx
    '43'                        # gen: inc %ebx
    '895e10'                    # mov %ebx, 16(%esi)
    '8b3e'                      # mov (%esi), %edi
    '8b4e04'                    # mov 4(%esi), %ecx
    '8d040b'                    # page: lea (%ebx, %ecx), %eax
    'a803'                      # test $3, %al
    '89d8'                      # mov %ebx, %eax
    '7502'                      # jnz store
    '31c0'                      # xor %eax, %eax
    '8907'                      # store: mov %eax, (%edi)
    '8987fc0f0000'              # mov %eax, 0xffc(%edi)
    '81c700100000'              # add $0x1000, %edi
    '8b5608'                    # mov 8(%esi), %edx
    '4a'                        # delay: dec %edx
    '79fd'                      # jns delay
    '49'                        # dec %ecx
    '75de'                      # jnz page
    'ebd3')                     # jmp gen

X86_ACCESS = bytes.fromhex(
    '31db'                      # xor %ebx, %ebx
    '31ed'                      # xor %ebp, %ebp
    '69db0d661900'              # next: imul $1664525, %ebx, %ebx
    '81c35ff36e3c'              # add $1013904223, %ebx
    '8a4e08'                    # mov 8(%esi), %cl
    '89df'                      # mov %ebx, %edi
    'd3ef'                      # shr %cl, %edi
    '237e04'                    # and 4(%esi), %edi
    'c1e70c'                    # shl $12, %edi
    '033e'                      # add (%esi), %edi
    '8b07'                      # mov (%edi), %eax
    '45'                        # inc %ebp
    '896e14'                    # mov %ebp, 20(%esi)
    '856e10'                    # test %ebp, 16(%esi)
    '7502'                      # jnz wait
    '892f'                      # mov %ebp, (%edi)
    '8b560c'                    # wait: mov 12(%esi), %edx
    '4a'                        # delay: dec %edx
    '79fd'                      # jns delay
    'ebd0')                     # jmp next

X86_CLOCK = bytes.fromhex(
    '31ed'                      # xor %ebp, %ebp
    '8d7e40'                    # reset: lea 64(%esi), %edi
    'b900010000'                # mov $256, %ecx
    '31c0'                      # xor %eax, %eax
    '89460c'                    # mov %eax, 12(%esi)
    '894614'                    # mov %eax, 20(%esi)
    'fc'                        # cld
    'f3ab'                      # rep stosl
    '0f31'                      # rdtsc
    '894618'                    # mov %eax, 24(%esi)
    '89561c'                    # mov %edx, 28(%esi)
    '837e0c00'                  # next: cmpl $0, 12(%esi)
    '75df'                      # jne reset
    '45'                        # inc %ebp
    '896e10'                    # mov %ebp, 16(%esi)
    '8a4e08'                    # mov 8(%esi), %cl
    '89ef'                      # mov %ebp, %edi
    'd3ef'                      # shr %cl, %edi
    '237e04'                    # and 4(%esi), %edi
    'c1e70c'                    # shl $12, %edi
    '033e'                      # add (%esi), %edi
    '892f'                      # mov %ebp, (%edi)
    '0f31'                      # rdtsc
    '89c3'                      # mov %eax, %ebx
    '89d1'                      # mov %edx, %ecx
    '2b4618'                    # sub 24(%esi), %eax
    '1b561c'                    # sbb 28(%esi), %edx
    '895e18'                    # mov %ebx, 24(%esi)
    '894e1c'                    # mov %ecx, 28(%esi)
    '0facd006'                  # shrd $6, %edx, %eax
    '83c008'                    # add $8, %eax
    '3b4614'                    # cmp 20(%esi), %eax
    '7603'                      # jbe bucket
    '894614'                    # mov %eax, 20(%esi)
    '0fbdc8'                    # bucket: bsr %eax, %ecx
    '8d14cde8ffffff'            # lea -24(, %ecx, 8), %edx
    '83e903'                    # sub $3, %ecx
    'd3e8'                      # shr %cl, %eax
    '01d0'                      # add %edx, %eax
    'ff448620'                  # incl 64 - 8 * 4(%esi, %eax, 4)
    'ebad')                     # jmp next

AARCH64_LOOP = struct.pack(
    '<18I',
    0xd2a80600,                 # movz x0, #0x4030, lsl #16
    0x52800001,                 # mov w1, #0
    0x11000421,                 # gen: add w1, w1, #1
    0xb9001001,                 # str w1, [x0, #16]
    0xb9400002,                 # ldr w2, [x0]
    0xb9400403,                 # ldr w3, [x0, #4]
    0x0b030024,                 # page: add w4, w1, w3
    0x7200049f,                 # tst w4, #3
    0x1a9f1024,                 # csel w4, w1, wzr, ne
    0xb9000044,                 # str w4, [x2]
    0xb90ffc44,                 # str w4, [x2, #0xffc]
    0x91400442,                 # add x2, x2, #1, lsl #12
    0xb9400805,                 # ldr w5, [x0, #8]
    0x710004a5,                 # delay: subs w5, w5, #1
    0x54ffffe5,                 # b.pl delay
    0x71000463,                 # subs w3, w3, #1
    0x54fffec1,                 # b.ne page
    0x17fffff1)                 # b gen

# A short IPL PSW, then the loop: what -kernel loads at address 0.
S390X_KERNEL = bytes.fromhex('00080000 80000200') + bytes(0x1f8) \
    + bytes.fromhex(
        'a51e0030'              # llilh %r1, MAILBOX >> 16
        'a7290000'              # lghi %r2, 0
        'a72a0001'              # gen: ahi %r2, 1
        '50201010'              # st %r2, 16(%r1)
        'e33010000016'          # llgf %r3, 0(%r1)
        '58401004'              # l %r4, 4(%r1)
        '1852'                  # page: lr %r5, %r2
        '1a54'                  # ar %r5, %r4
        'a7510003'              # tmll %r5, 3
        '1852'                  # lr %r5, %r2
        'a7740004'              # jnz store
        'a7580000'              # lhi %r5, 0
        '50503000'              # store: st %r5, 0(%r3)
        '50503ffc'              # st %r5, 0xffc(%r3)
        'a73b1000'              # aghi %r3, 4096
        '58601008'              # l %r6, 8(%r1)
        'a76affff'              # delay: ahi %r6, -1
        'a7a4fffe'              # jnm delay
        'a746ffeb'              # brct %r4, page
        'a7f4ffe0')             # j gen


class Loop:
    """The loop in a guest's RAM, as the host sees it."""

    def __init__(self, arch: str, ram: Ram, pages: int = 256,
                 delay: int = 1000):
        self.arch, self.ram, self.pages = arch, ram, pages
        self.order = '>' if arch == 's390x' else '<'
        self.base = 0x40000000 if arch == 'aarch64' else 0
        self.end = WORKING_SET + pages * PAGE
        self.move(WORKING_SET, pages, delay)
        if arch == 'aarch64':
            ram.write(CODE, AARCH64_LOOP)

    @staticmethod
    def args(arch: str, directory: str) -> list[str]:
        """What makes an emulator run the loop."""
        path = os.path.join(directory, 'loop-' + arch)
        if arch == 'aarch64':
            return ['-device', f'loader,addr={0x40000000 + CODE:#x},cpu-num=0']
        with open(path, 'wb') as f:
            f.write(x86_rom(X86_LOOP) if arch == 'x86_64' else S390X_KERNEL)
        return ['-bios' if arch == 'x86_64' else '-kernel', path]

    def move(self, start: int, pages: int, delay: int = 1000):
        """Give the guest another working set, from its next round on."""
        self.ram.write(MAILBOX, struct.pack(self.order + '3I',
                                            self.base + start, pages, delay))

    def limit(self, rate: int):
        """
        Let the running guest, which has no delay, do not far more than @rate
        rounds in a second.
        """
        before, start = self.gen(), time.monotonic()
        time.sleep(0.1)
        pages = (self.gen() - before) * self.pages
        done, wanted = pages / (time.monotonic() - start), rate * self.pages
        if done > wanted:
            # A page takes as long as some 5 steps of the delay.
            self.ram.write(MAILBOX + 8, struct.pack(
                self.order + 'I', int(5 * (done / wanted - 1))))

    def gen(self, ram: Ram | None = None) -> int:
        return (ram or self.ram).word(MAILBOX + 16, self.order)

    def expected(self, index: int, gen: int) -> int:
        return gen if (gen + self.pages - index) & 3 else 0

    def torn(self, ram: Ram) -> str | None:
        """
        Why the working set in @ram is not that of one instant; None if it is.
        """
        gen = self.gen(ram)
        data = ram.read(WORKING_SET, self.pages * PAGE)
        new = True
        for i in range(self.pages):
            page = data[i * PAGE:(i + 1) * PAGE]
            if page.count(0) < PAGE - 8 or any(page[4:-4]):
                return f'page {i} holds what the guest never wrote'
            first, = struct.unpack(self.order + 'I', page[:4])
            last, = struct.unpack(self.order + 'I', page[-4:])
            now, before = self.expected(i, gen), self.expected(i, gen - 1)
            if new and (first, last) == (now, now):
                continue
            if new and (first, last) == (now, before):
                new = False
                continue
            new = False
            if (first, last) != (before, before):
                return (f'page {i} is ({first}, {last}) in generation {gen}, '
                        f'after a page of generation {gen - 1}: torn')
        return None


class Access:
    """
    A guest that touches pages in an order that looks random, and is the same
    each time: one that is reverted again and again does the same again.

    @start: offset of the region in RAM
    @pages: how many it has, a power of two
    @walk: touch all of them before any is touched again, always in the same
        order; otherwise each time one page is as likely as any other
    @reads: what bits of the number of an access make it one that only reads
    """

    COUNT = MAILBOX + 20

    def __init__(self, ram: Ram, start: int, pages: int, walk: bool,
                 reads: int = 0):
        self.ram = ram
        # The low bits of x go through all of their values in turn.
        shift = 0 if walk else 33 - pages.bit_length()
        ram.write(MAILBOX, struct.pack('<5I', start, pages - 1, shift, 1000,
                                       reads))

    @staticmethod
    def args(directory: str) -> list[str]:
        """What makes an emulator run it."""
        path = os.path.join(directory, 'access')
        with open(path, 'wb') as f:
            f.write(x86_rom(X86_ACCESS))
        return ['-bios', path]

    def count(self) -> int:
        return self.ram.word(self.COUNT, '<')

    def pace(self, rate: int):
        """
        Measure the running guest, and let it do @rate accesses in a second.
        """
        delay = 10000
        for _ in range(2):
            self.ram.write(MAILBOX + 12, struct.pack('<I', delay))
            before, start = self.count(), time.monotonic()
            time.sleep(0.3)
            done = self.count() - before
            delay = max(1, int(delay * done /
                               (time.monotonic() - start) / rate))
        self.ram.write(MAILBOX + 12, struct.pack('<I', delay))


class Clock:
    """
    A guest that measures its own pauses, in seconds.  Its time stands still
    while the emulator has stopped it.

    @start: offset of the pages in RAM
    @pages: how many it touches, a power of two
    """

    BUCKETS = 256

    def __init__(self, ram: Ram, start: int, pages: int):
        self.ram = ram
        self.unit = 0.0
        ram.write(MAILBOX, struct.pack('<3I', start, pages - 1, 12))

    @staticmethod
    def args(directory: str) -> list[str]:
        """What makes an emulator run it."""
        path = os.path.join(directory, 'clock')
        with open(path, 'wb') as f:
            f.write(x86_rom(X86_CLOCK))
        return ['-bios', path]

    def calibrate(self, rate: int):
        """
        Measure the running guest, and let it touch at most @rate pages in a
        second.
        """
        before = struct.unpack('<3I', self.ram.read(MAILBOX + 16, 12))
        start = time.monotonic()
        time.sleep(0.5)
        after = struct.unpack('<3I', self.ram.read(MAILBOX + 16, 12))
        passed = time.monotonic() - start
        count, _, tsc = ((b - a) % (1 << 32) for a, b in zip(before, after))
        self.unit = 64 * passed / tsc
        shift = max(0, int(count / passed / rate).bit_length())
        self.ram.write(MAILBOX + 8, struct.pack('<I', shift))

    def reset(self):
        self.ram.write(MAILBOX + 12, struct.pack('<I', 1))
        wait_until(lambda: not self.ram.word(MAILBOX + 12, '<'), TIMEOUT)

    def longest(self) -> float:
        return (self.ram.word(MAILBOX + 20, '<') - 8) * self.unit

    def pauses(self) -> list[tuple[float, int]]:
        """How many took at least that long, and less than the next."""
        counts = struct.unpack(f'<{self.BUCKETS}I', self.ram.read(
            MAILBOX + 64, 4 * self.BUCKETS))
        return [(((8 + n % 8 << n // 8) - 8) * self.unit, count)
                for n, count in enumerate(counts)]


INIT = r'''#!/bin/sh
busybox mkdir -p /proc
busybox mount -t proc proc /proc
nonce=$(busybox head -c 8 /dev/urandom | busybox od -An -tx1 |
    busybox tr -d ' ')
busybox dd if=/dev/urandom of=/data bs=64k count=@DATA@ 2>/dev/null
sum=$(busybox md5sum < /data)
(while :; do
    busybox dd if=/dev/urandom of=/work bs=64k count=16 2>/dev/null
    busybox usleep 20000
done) &
i=0
while :; do
    i=$((i + 1))
    state=ok
    [ $((i % 10)) != 0 ] || [ "$(busybox md5sum < /data)" = "$sum" ] ||
        state=corrupt
    echo "snap $nonce $i $state"
    busybox usleep 100000
done
'''


def initramfs(path: str, data_mib: int = 8):
    """
    A Linux whose only program prints a line every 0.1 s: a nonce and a
    counter that are in RAM and nowhere else, and whether @data_mib MiB of
    random bytes are still what they were.  Meanwhile it rewrites 1 MiB.
    """
    def entry(name: str, mode: int, data: bytes = b'', rdev=(0, 0)) -> bytes:
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev,
                  len(name) + 1, 0)
        head = b'070701' + b''.join(b'%08x' % f for f in fields) \
            + name.encode() + b'\0'
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    with open(env('SNAP_BUSYBOX'), 'rb') as f:
        busybox = f.read()
    init = INIT.replace('@DATA@', str(data_mib * 16)).encode()
    with open(path, 'wb') as f:
        for name in ('dev', 'bin'):
            f.write(entry(name, stat.S_IFDIR | 0o755))
        f.write(entry('dev/console', stat.S_IFCHR | 0o600, rdev=(5, 1)))
        f.write(entry('dev/null', stat.S_IFCHR | 0o666, rdev=(1, 3)))
        f.write(entry('dev/urandom', stat.S_IFCHR | 0o666, rdev=(1, 9)))
        f.write(entry('bin/busybox', stat.S_IFREG | 0o755, busybox))
        f.write(entry('bin/sh', stat.S_IFLNK | 0o777, b'busybox'))
        f.write(entry('init', stat.S_IFREG | 0o755, init))
        f.write(entry('TRAILER!!!', 0))


LINUX_CMDLINE = ('console=ttyS0 quiet panic=-1 mitigations=off nokaslr '
                 'random.trust_cpu=on no_timer_check tsc=reliable '
                 'cryptomgr.notests')


def linux_args(directory: str) -> list[str]:
    """What makes an x86_64 emulator boot the Linux guest."""
    initrd = os.path.join(directory, 'initramfs')
    if not os.path.exists(initrd):
        initramfs(initrd)
    return ['-kernel', env('SNAP_KERNEL'), '-initrd', initrd,
            '-append', LINUX_CMDLINE]


class Tick(NamedTuple):
    """A line of the Linux guest."""
    nonce: str
    count: int
    state: str


def console_ticks(console: list[str]) -> list[Tick]:
    """The whole lines of the Linux guest among what it has printed."""
    found = re.findall(r'^snap ([0-9a-f]{16}) ([0-9]+) (ok|corrupt)\r?$',
                       '\n'.join(console), re.MULTILINE)
    return [Tick(nonce, int(count), state) for nonce, count, state in found]
