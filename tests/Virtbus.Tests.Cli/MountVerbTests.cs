using System.Diagnostics;
using Virtbus.Platform;

namespace Virtbus.Tests.Cli;

/// <summary>The tree as a file system of the host: mounted, and read and written by programs that know nothing of it. DL-14.</summary>
public sealed class MountVerbTests
{
    private const string Manifest = """
        adapters:
          - name: adapter0
            model: merlin
            vfs: 2
        disks:
          - { name: disk0, adapter: adapter0, memory: 8MiB }
        functions:
          - { name: nic0, virtio: net }

        """;

    private const string Vf = "0000:01:00.1";

    private static async Task<TestFabric> UpAsync()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess && File.Exists("/dev/fuse"), "needs root and /dev/fuse");
        var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        return fabric;
    }

    private static void SkipWithout(params string[] programs)
    {
        var missing = programs.Where(static p => !"/usr/bin:/usr/sbin:/bin:/sbin".Split(':').Any(d => File.Exists(Path.Combine(d, p)))).ToArray();
        Assert.SkipWhen(missing.Length > 0, $"not installed: {string.Join(' ', missing)}");
    }

    /// <summary>What a shell says that sees the tree as /sys; standard error with it.</summary>
    private static async Task<string> ShellAsync(TestFabric fabric, string script)
    {
        var run = await fabric.RunAsync("mount", "--over-sys", "--", "sh", "-c", $"exec 2>&1; {script}");
        Assert.True(run.Code == 0 && run.Errors.Length == 0, $"{script}: {run}");
        return run.Output;
    }

    [Fact]
    public async Task Tree_is_mounted_listed_and_taken_away()
    {
        await using var fabric = await UpAsync();
        Assert.Equal("MOUNTED ON  OWNER  OPEN FILES\n", await fabric.OkAsync("mount"));
        var place = Directory.CreateDirectory(Path.Combine(fabric.Runtime, "../sys tree")).FullName;
        await fabric.OkAsync("mount", place);
        Assert.Equal("0x5642\n", await File.ReadAllTextAsync(Path.Combine(place, "bus/pci/devices", Vf, "vendor"), TestContext.Current.CancellationToken));
        Assert.Contains(place, await fabric.OkAsync("mount"), StringComparison.Ordinal);
        Assert.Equal(place + "\n", await fabric.OkAsync("attr", "get", "/kernel/fabric/mounts"));
        Assert.Contains($"A tree is mounted on {place} already.", await fabric.RefusedAsync("mount", place), StringComparison.Ordinal);
        // By another way there.
        var link = File.CreateSymbolicLink(Path.Combine(fabric.Runtime, "../way"), Path.GetDirectoryName(place)!).FullName;
        await fabric.OkAsync("umount", Path.Combine(link, "sys tree"));
        Assert.Empty(Directory.GetFileSystemEntries(place));
        Assert.Contains($"No tree is mounted on {place}.", await fabric.RefusedAsync("umount", place), StringComparison.Ordinal);
        Assert.Equal("\n", await fabric.OkAsync("attr", "get", "/kernel/fabric/mounts") + "\n");
    }

    [Fact]
    public async Task What_cannot_be_mounted_is_refused_in_words_and_leaves_nothing()
    {
        await using var fabric = await UpAsync();
        Assert.Contains("/nowhere is no folder. Make it with 'mkdir -p /nowhere'.", await fabric.RefusedAsync("mount", "/nowhere"), StringComparison.Ordinal);
        var run = await fabric.RunAsync("mount", "--over-sys");
        Assert.Equal((2, true), (run.Code, run.Errors.Contains("needs '--' and a COMMAND", StringComparison.Ordinal)));
        run = await fabric.RunAsync("mount", "/mnt", "--", "ls");
        Assert.Equal((2, true), (run.Code, run.Errors.Contains("with --over-sys only", StringComparison.Ordinal)));
        run = await fabric.RunAsync("mount", "--over-sys", "--", "no-such-program");
        Assert.Equal((1, true), (run.Code, run.Errors.Contains("'no-such-program' can't be run: ENOENT", StringComparison.Ordinal)));
        run = await fabric.RunAsync("mount", "--over-sys", "--", "sh", "-c", "exit 7");
        Assert.Equal(7, run.Code);
        await fabric.OkAsync("down");
        Assert.Contains("No running fabric takes mounts", await fabric.RefusedAsync("mount", "/mnt"), StringComparison.Ordinal);
        Assert.DoesNotContain(" /mnt ", await File.ReadAllTextAsync("/proc/self/mountinfo", TestContext.Current.CancellationToken), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Shell_reads_writes_and_walks_the_tree()
    {
        await using var fabric = await UpAsync();
        var said = await ShellAsync(fabric, $"""
            cd /sys/bus/pci/devices/0000:01:00.0
            readlink virtfn0 driver
            find /sys/class/net -type l | wc -l
            grep -rH . /sys/bus/pci/devices/{Vf}/vendor
            echo 0 > sriov_numvfs
            ls -d virtfn0
            cat sriov_numvfs
            echo 3 > sriov_numvfs; cat sriov_numvfs; ls /sys/bus/pci/devices | grep -c 01:00
            /bin/echo 4 > sriov_numvfs
            nproc; ls /sys/devices/system/cpu | grep -c '^cpu0$'
            """);
        Assert.Equal(
            """
            ../0000:01:00.1
            ../../../../bus/pci/drivers/merlin_core
            """,
            string.Join('\n', said.Split('\n')[..2]));
        Assert.Contains($"{Vf}/vendor:0x5642\n", said, StringComparison.Ordinal);
        Assert.Contains("ls: cannot access 'virtfn0': No such file or directory\n0\n3\n4\n", said, StringComparison.Ordinal);
        // The host's own parts are there.
        Assert.EndsWith($"{Environment.ProcessorCount}\n1\n", said, StringComparison.Ordinal);
        // As the kernel has it: from one number to another goes by 0.
        Assert.Contains("Device or resource busy", said, StringComparison.Ordinal);
        Assert.Equal("3\n", await fabric.OkAsync("attr", "get", "/bus/pci/devices/0000:01:00.0/sriov_numvfs"));
    }

    [Fact]
    public async Task Lspci_and_setpci_see_functions_and_reach_their_registers()
    {
        SkipWithout("lspci", "setpci");
        await using var fabric = await UpAsync();
        var said = await ShellAsync(fabric, $"lspci -vvv -s 01:00 2>/dev/null; setpci -s {Vf} COMMAND; setpci -s 01:00.0 LATENCY_TIMER=40; setpci -s 01:00.0 0.w; lspci | wc -l");
        Assert.Contains("Capabilities: [", said, StringComparison.Ordinal);
        Assert.Contains("Kernel driver in use: merlin_core", said, StringComparison.Ordinal);
        Assert.Contains("Number of VFs: 2", said, StringComparison.Ordinal);
        Assert.Contains("\n5642\n", said, StringComparison.Ordinal);
        Assert.DoesNotContain("access denied", said, StringComparison.Ordinal);
        Assert.EndsWith($"\n{(await fabric.OkAsync("attr", "get", "/bus/pci/devices")).Split('\n').Length - 1}\n", said, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Driverctl_and_modprobe_bind_a_function_to_another_driver_and_back()
    {
        SkipWithout("driverctl", "modprobe", "udevadm");
        await using var fabric = await UpAsync();
        var said = await ShellAsync(fabric, $"""
            driverctl --nosave set-override {Vf} vfio-pci; echo rc $?
            cat /sys/bus/pci/devices/{Vf}/driver_override; basename $(readlink /sys/bus/pci/devices/{Vf}/driver)
            driverctl list-overrides
            driverctl --nosave unset-override {Vf}; echo rc $?
            cat /sys/bus/pci/devices/{Vf}/driver_override; basename $(readlink /sys/bus/pci/devices/{Vf}/driver)
            modprobe virtio_net; echo rc $?; cat /sys/module/virtio_net/initstate
            modprobe -r virtio_net; echo rc $?; ls /sys/module | grep -c '^virtio_net$' || true
            """);
        // The other one is the manifest's, for a guest.
        Assert.Equal(
            $"""
            rc 0
            vfio-pci
            vfio-pci
            {Vf} vfio-pci
            0000:03:00.0 vfio-pci
            rc 0
            (null)
            merlin_core
            rc 0
            live
            rc 0
            0

            """,
            said);
    }

    [Fact]
    public async Task Udevadm_lsblk_and_libudev_s_users_find_devices()
    {
        SkipWithout("udevadm", "lsblk");
        await using var fabric = await UpAsync();
        var seqnum = await fabric.OkAsync("attr", "get", "/kernel/uevent_seqnum");
        var said = await ShellAsync(fabric, $"""
            udevadm info -q property /sys/bus/pci/devices/{Vf}
            udevadm info -a /sys/bus/pci/devices/{Vf} | grep -c looking
            udevadm trigger -c change -s pci; echo rc $?
            lsblk; echo rc $?
            """);
        Assert.Contains($"PCI_SLOT_NAME={Vf}\n", said, StringComparison.Ordinal);
        Assert.Contains("DRIVER=merlin_core\n", said, StringComparison.Ordinal);
        // Itself, the port above it, and the root.
        Assert.Contains("\n3\nrc 0\n", said, StringComparison.Ordinal);
        Assert.EndsWith("rc 0\n", said, StringComparison.Ordinal);
        Assert.True(int.Parse(await fabric.OkAsync("attr", "get", "/kernel/uevent_seqnum")) > int.Parse(seqnum));
    }

    [Fact]
    public async Task Dpdk_devbind_binds_both_ways_and_tools_of_other_hardware_find_none()
    {
        SkipWithout("dpdk-devbind.py", "nvme", "mdevctl", "inotifywait");
        await using var fabric = await UpAsync();
        var said = await ShellAsync(fabric, $"""
            dpdk-devbind.py -b vfio-pci {Vf} 2>/dev/null; echo rc $?
            dpdk-devbind.py --status-dev net 2>/dev/null | grep {Vf}
            dpdk-devbind.py -b merlin_core {Vf} 2>/dev/null; echo rc $?
            dpdk-devbind.py --status-dev net 2>/dev/null | grep {Vf}
            nvme list >/dev/null; echo rc $?
            mdevctl list; echo rc $?
            seen=$(mktemp -u); (inotifywait -q -e modify /sys/bus/pci/devices/{Vf}/driver_override; touch $seen) &
            until [ -e $seen ]; do echo > /sys/bus/pci/devices/{Vf}/driver_override; sleep 0.1; done; wait; rm $seen
            """);
        Assert.Matches($"^rc 0\n{Vf} .*drv=vfio-pci unused=.*\nrc 0\n{Vf} .*if=adapter0v0np0 drv=merlin_core unused=vfio-pci.*\nrc 0\n\\s*rc 0\n", said);
        Assert.EndsWith($"{Vf}/driver_override MODIFY \n", said, StringComparison.Ordinal);
    }

    // Whoever may not mount has namespaces in which they may.
    [Fact]
    public async Task User_who_is_not_root_mounts_in_a_namespace_of_their_own()
    {
        SkipWithout("lspci", "setpriv", "unshare");
        await using var fabric = await UpAsync();
        await fabric.OkAsync("down");
        // The node is root's alone here and there, and every user's on most hosts.
        var home = Directory.CreateTempSubdirectory("vbuser").FullName;
        var script = $"""
            set -e
            mount -t tmpfs -o dev tmpfs {home}
            mknod -m 666 {home}/fuse c 10 229
            mount --bind {home}/fuse /dev/fuse
            mkdir -m 700 {home}/run
            chown 65534:65534 {home}/run
            cat > {home}/m.yaml <<'END'
            {Manifest}
            END
            exec setpriv --reuid 65534 --regid 65534 --clear-groups env HOME={home} VIRTBUS_RUNTIME={home}/run sh -c '
              {TestFabric.Program} up {home}/m.yaml --detach >/dev/null || exit
              {TestFabric.Program} mount --over-sys -- sh -c "id -u; lspci -k -s 01:00.1 2>/dev/null; echo vfio-pci > /sys/bus/pci/devices/{Vf}/driver_override; cat /sys/bus/pci/devices/{Vf}/driver_override; wc -c < /sys/bus/pci/devices/{Vf}/config"
              {TestFabric.Program} mount
              {TestFabric.Program} down >/dev/null'
            """;
        var run = await TestFabric.EndAsync(fabric.StartProgram("unshare", "-m", "sh", "-c", script));
        Directory.Delete(home);
        Assert.True(run.Code == 0, run.ToString());
        Assert.StartsWith("0\n", run.Output, StringComparison.Ordinal);
        Assert.Contains("Kernel driver in use: merlin_core\nvfio-pci\n4096\n", run.Output, StringComparison.Ordinal);
        // It went with its namespace.
        Assert.EndsWith("MOUNTED ON  OWNER  OPEN FILES\n", run.Output, StringComparison.Ordinal);
    }

    // Every one has an error, and nothing is left that cannot be taken away.
    [Fact]
    public async Task Daemon_that_is_killed_sets_a_hundred_readers_free()
    {
        await using var fabric = await UpAsync();
        var place = Directory.CreateDirectory(Path.Combine(fabric.Runtime, "../sys")).FullName;
        await fabric.OkAsync("mount", place);
        var vendor = Path.Combine(place, "bus/pci/devices", Vf, "vendor");
        var ready = new CountdownEvent(100);
        var readers = Enumerable.Range(0, 100).Select(_ => Task.Factory.StartNew(
            () =>
            {
                ready.Signal();
                while (true)
                    File.ReadAllText(vendor);
            },
            CancellationToken.None,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default)).ToArray();
        ready.WaitHandle.Comes("the readers");
        using (var daemon = Process.GetProcessById(int.Parse(await fabric.OkAsync("attr", "get", "/kernel/fabric/process"))))
            daemon.Kill();
        foreach (var reader in readers)
            await Assert.ThrowsAnyAsync<IOException>(() => reader.In());
        Assert.Contains($"A tree is mounted on {place} already.", await fabric.RefusedAsync("mount", place), StringComparison.Ordinal);
        await fabric.OkAsync("umount", place);
        Assert.Empty(Directory.GetFileSystemEntries(place));
    }
}
