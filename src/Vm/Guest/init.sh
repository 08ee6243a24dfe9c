#!/bin/sh
# The guest's init. Its environment comes from the kernel command line: virtbus_mode is "command" or "shell", virtbus_modules the
# drivers to load, virtbus_rows and virtbus_columns the size of the user's terminal.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
modprobe -a $(echo "$virtbus_modules" | tr , ' ')

# Powers off with nothing left dirty.
finish() {
    while read -r source folder rest; do
        case $source in /dev/*) umount "$folder" ;; esac
    done </proc/mounts
    sync
}

# Waits for the virtio port that QEMU gave a name, and puts its device into $port.
find_port() {
    while :; do
        for folder in /sys/class/virtio-ports/*; do
            if read -r name <"$folder/name" && [ "$name" = "$1" ] && [ -c "/dev/${folder##*/}" ]; then
                port=/dev/${folder##*/}
                return
            fi
        done 2>/dev/null
        usleep 5000
    done
}

# Kills what runs in a session of its own: COMMAND and all that it started. Kernel threads and we are in session 0.
kill_sessions() {
    alive=1
    while [ "$alive" ]; do
        alive=
        for stat in /proc/[0-9]*/stat; do
            read -r line <"$stat" || continue
            pid=${stat#/proc/}
            # The fields after the name in parentheses: state, parent, group, session.
            set -- ${line##*) }
            if [ "$4" != 0 ] && [ "$1" != Z ]; then
                kill -9 "${pid%/stat}"
                alive=1
            fi
        done 2>/dev/null
    done
}

if [ "$virtbus_mode" = shell ]; then
    stty -F /dev/ttyS0 rows "${virtbus_rows:-24}" columns "${virtbus_columns:-80}"
    {
        echo "Linux $(uname -r) in a virtual machine. 'exit' powers it off, Ctrl-A X ends it at once."
        for disk in /sys/block/vd*; do
            [ -e "$disk/size" ] || continue
            read -r serial <"$disk/serial"
            read -r sectors <"$disk/size"
            echo "/dev/${disk##*/}  $((sectors / 2048)) MiB  ${serial:-no serial}"
        done
        for port in /sys/bus/pci/devices/*/tty/ttyS*; do
            function=${port%/tty/*}
            [ -e "$port" ] && echo "/dev/${port##*/}  serial port of PCI function ${function##*/}"
        done
        # The full tool and not busybox's stands for functions that came over vfio-user.
        [ -e /lib/libpci.so.3 ] && echo "'lspci -nnk' shows the PCI functions."
    } >/dev/ttyS0 2>/dev/null
    # A session leader without a terminal gets the one that it opens: job control and Ctrl-C work.
    setsid env -i PATH=/bin HOME=/root TERM="$TERM" PS1='guest:\w# ' sh -c 'cd; exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
    finish
    poweroff -f
fi

# The control port: the host holds it open as long as it lives. A line of ours asks for COMMAND, the host's line brings it. It is the
# last of the ports, so that with this line the host is known to be at the others, too: a read before that would end at once.
find_port virtbus.control
exec 6<>"$port"
find_port virtbus.in
exec 3<"$port"
find_port virtbus.out
exec 4>"$port"
find_port virtbus.err
exec 5>"$port"
echo >&6
until read -r mark input script <&6; do usleep 5000; done
printf %s "$script" | base64 -d >/run/command
# The end of the control port, wanted or not, is the end of the guest.
{
    cat <&6 >/dev/null
    poweroff -f
} 3<&- 4>&- 5>&- &

# Runs COMMAND with our standard input, and ends the guest.
run() {
    exec 3<&-
    # COMMAND gets pipes and not the ports themselves: a port opens once only, and COMMAND may open /dev/stderr.
    # We open each for reading and writing first, so no open waits for the other end: one that waits can be interrupted by a child's end.
    mkfifo /run/out /run/err
    exec 7<>/run/out 8<>/run/err
    cat </run/out >&4 5>&- 6<&- 7>&- 8>&- &
    out=$!
    cat </run/err >&5 4>&- 6<&- 7>&- 8>&- &
    err=$!
    echo 'virtbus: the guest is up' >/dev/console
    setsid env -i PATH=/bin HOME=/root TERM="$TERM" sh -c 'cd; . /run/command' >/run/out 2>/run/err 4>&- 5>&- 6<&- 7>&- 8>&-
    code=$?
    exec 7>&- 8>&-
    kill_sessions
    wait "$out" "$err"
    finish
    # The marks tell the host that all bytes of the stream have passed.
    printf '\036%s%d\n' "$mark" "$code" >&4
    printf '\036%s\n' "$mark" >&5
    # The watcher of the control port powers off.
    while :; do wait; usleep 100000; done
}

if [ "$input" = yes ]; then
    # An anonymous pipe: unlike a named one it can be opened again as /dev/stdin when its writer is gone.
    cat <&3 4>&- 5>&- 6<&- | run
else
    run </dev/null
fi
