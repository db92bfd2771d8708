# SPDX-License-Identifier: GPL-2.0-or-later
#
"""Devices driven from outside: the qtest protocol, a virtio-mem driver."""

import socket
import struct

from snaptest import TIMEOUT
from snaptest.vm.machine import VM


class QTest:
    """The qtest protocol beside a guest that runs under TCG."""

    @staticmethod
    def args(path: str) -> list[str]:
        return ['-qtest', f'unix:{path},server=on,wait=off',
                '-qtest-log', '/dev/null']

    def __init__(self, path: str):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(path)
            self.stream = sock.makefile('rw')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stream.close()

    def __call__(self, *words) -> int:
        """One command, numbers or not; its value, if it has one."""
        self.stream.write(' '.join(w if isinstance(w, str) else hex(w)
                                   for w in words) + '\n')
        self.stream.flush()
        reply = self.stream.readline().split()
        if not reply or reply[0] != 'OK':
            raise RuntimeError(f'qtest {words}: {reply}')
        return int(reply[1], 0) if len(reply) > 1 else 0

    def pci_write(self, slot: int, register: int, value: int):
        self('outl', 0xcf8, 1 << 31 | slot << 11 | register)
        self('outl', 0xcfc, value)


class VirtioMem:
    """
    As much of a driver as plugs blocks of a virtio-mem-pci (x86, not
    transitional).  The guest's own code neither knows nor minds: the queue
    is in its page at 64 KiB.
    """

    BAR = 0xe0000000            # common +0, device +0x2000, notify +0x3000
    DEVICE, NOTIFY = BAR + 0x2000, BAR + 0x3000
    DESC, AVAIL, USED, REQ, RESP = range(0x10000, 0x15000, 0x1000)

    def __init__(self, vm: VM, qtest: QTest, slot: int):
        self.vm, self.qtest, self.index = vm, qtest, 0
        qtest.pci_write(slot, 0x20, self.BAR)
        qtest.pci_write(slot, 0x24, 0)
        qtest.pci_write(slot, 0x04, 0x0006)     # memory, bus master
        self.common('b', 0x14, 0)               # reset
        self.common('b', 0x14, 3)               # acknowledge, driver
        self.common('l', 0x08, 0)
        self.common('l', 0x0c, 2)               # UNPLUGGED_INACCESSIBLE
        self.common('l', 0x08, 1)
        self.common('l', 0x0c, 1)               # VERSION_1
        self.common('b', 0x14, 11)              # features ok
        self.common('w', 0x16, 0)
        self.common('w', 0x18, 16)
        self.common('q', 0x20, self.DESC)
        self.common('q', 0x28, self.AVAIL)
        self.common('q', 0x30, self.USED)
        self.common('w', 0x1c, 1)
        self.common('b', 0x14, 15)              # driver ok
        self.block_size = qtest('readq', self.DEVICE)
        self.addr = qtest('readq', self.DEVICE + 16)
        vm.ram.write(self.DESC, struct.pack(
            '<QIHH QIHH', self.REQ, 24, 1, 1, self.RESP, 10, 2, 0))

    def common(self, width: str, register: int, value: int):
        self.qtest('write' + width, self.BAR + register, value)

    def plug(self, block: int):
        ram = self.vm.ram
        ram.write(self.REQ, struct.pack(
            '<H6xQH6x', 0, self.addr + block * self.block_size, 1))
        ram.write(self.RESP, b'\xff' * 10)
        ram.write(self.AVAIL + 4 + 2 * (self.index % 16), bytes(2))
        self.index += 1
        ram.write(self.AVAIL + 2, struct.pack('<H', self.index))
        self.qtest('writew', self.NOTIFY, 0)
        self.vm.wait_until(lambda: ram.read(self.USED + 2, 2) ==
                           struct.pack('<H', self.index))
        if ram.read(self.RESP, 2) != b'\0\0':
            raise RuntimeError(f'block {block} could not be plugged')
