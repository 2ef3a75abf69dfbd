"""Connects to an abstract socket from a pid namespace below this one, has who connected end and its
pid used again by a process of this namespace, and then has a child that has the connection ask for
a drain."""

import ctypes
import os
import socket
import sys
import time

libc = ctypes.CDLL(None)
NEWPID = 0x20000000  # CLONE_NEWPID: for children.
told, tell = os.pipe()
go, started = os.pipe()
outer = os.getpid()
assert libc.unshare(NEWPID) == 0
if os.fork() == 0:
    if os.fork() == 0:
        door = socket.socket(socket.AF_UNIX)
        door.connect("\0" + sys.argv[1])
        # /proc is that of the namespace above.
        os.write(tell, os.readlink("/proc/self").encode())
        if os.fork() == 0:
            os.read(go, 1)
            door.sendall(b"POST /shutdown HTTP/1.1\r\n\r\n")
            door.settimeout(5)
            print(door.recv(999).split(b"\r\n")[0].decode(), flush=True)
        os._exit(0)
    os.wait()
    os.write(tell, b" ended")
    time.sleep(10)
    os._exit(0)
pid = ""
while not pid.endswith(" ended"):
    pid += os.read(told, 99).decode()
pid = int(pid.split()[0])
# Children are made here by `setns` back into our own namespace.
back = os.open(f"/proc/{outer}/ns/pid", os.O_RDONLY)
assert libc.setns(back, NEWPID) == 0
for _ in range(1000):
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(pid - 1))
    child = os.fork()
    if child == 0:
        time.sleep(10)
        os._exit(0)
    if child == pid:
        break
    os.kill(child, 9)
    os.waitpid(child, 0)
else:
    sys.exit("no such luck")
print("the pid is another's", flush=True)
os.write(started, b"x")
time.sleep(6)
