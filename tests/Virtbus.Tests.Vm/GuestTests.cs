using System.Diagnostics;
using System.IO.Pipelines;
using System.Security.Cryptography;
using System.Text;
using Virtbus.Platform;
using Virtbus.Vm;

namespace Virtbus.Tests.Vm;

/// <summary>Real boots, with QEMU under TCG.</summary>
public sealed class GuestTests
{
    [Fact]
    public async Task Guest_exit_code_is_ours()
    {
        Result result = await RunAsync(["sh", "-c", "echo out; echo err >/dev/stderr; exit 42"]);
        Assert.Equal(42, result.Code);
        Assert.Equal("out\n", result.Output);
        Assert.Equal("err\n", result.Error);
    }

    [Fact]
    public async Task Binary_streams_pass_both_ways_unchanged()
    {
        byte[] bytes = RandomNumberGenerator.GetBytes(1_000_003);
        using MemoryStream input = new(bytes);
        Result result = await RunAsync(["tee", "/dev/stderr"], input: input);
        Assert.Equal(0, result.Code);
        Assert.Equal(bytes, result.RawOutput);
        Assert.Equal(bytes, result.RawError);
    }

    [Theory]
    [InlineData(null, "")]
    [InlineData("text", "text")]
    public async Task Standard_input_opens_again_by_name_and_has_an_end(string? text, string seen)
    {
        using MemoryStream input = new(Encoding.UTF8.GetBytes(text ?? ""));
        Result result = await RunAsync(["sh", "-c", "usleep 100000; cat /dev/stdin"], input: text is null ? null : input);
        Assert.Equal(seen, result.Output);
    }

    [Fact]
    public async Task Command_need_not_read_its_input()
    {
        using MemoryStream input = new(new byte[4 * 1024 * 1024]);
        Result result = await RunAsync(["head", "-c", "1"], input: input);
        Assert.Equal(0, result.Code);
        Assert.Equal([0], result.RawOutput);
    }

    [Fact]
    public async Task Powering_off_before_the_command_ended_is_an_error()
    {
        VirtbusException error = await Assert.ThrowsAsync<VirtbusException>(() => RunAsync(["poweroff", "-f"]));
        Assert.Contains("powered off", error.Message);
    }

    [Fact]
    public async Task Arguments_reach_the_command_as_they_are()
    {
        Result result = await RunAsync(["printf", "[%s]", "a b", "it's", "$HOME", "", "*", "\\n", "ü\n"]);
        Assert.Equal("[a b][it's][$HOME][][*][\\n][ü\n]", result.Output);
    }

    [Fact]
    public async Task Disks_appear_in_device_order_and_writes_reach_the_back_end()
    {
        RequireStorageDaemon();
        using Disk first = new(mebibytes: 4);
        using Disk second = new(mebibytes: 8);
        Result result = await RunAsync(
            ["sh", "-c", "cat /sys/block/vda/size /sys/block/vdb/size; printf hello | dd of=/dev/vdb bs=1M seek=1 conv=fsync 2>/dev/null"],
            devices: [first.Device, second.Device]);
        Assert.Equal("8192\n16384\n", result.Output);
        Assert.Equal("hello"u8.ToArray(), File.ReadAllBytes(second.Image).AsSpan(1024 * 1024, 5).ToArray());
    }

    [Fact]
    public async Task Command_ends_though_it_leaves_a_child_with_the_streams()
    {
        Result result = await RunAsync(["sh", "-c", "sleep 1000 & setsid sleep 1000 & echo done"]);
        Assert.Equal("done\n", result.Output);
        Assert.Equal(0, result.Code);
    }

    [Fact]
    public async Task Environment_holds_only_the_path_and_the_user()
    {
        Result result = await RunAsync(["sh", "-c", "env | cut -d= -f1 | sort"]);
        Assert.Equal("HOME\nPATH\nPWD\nSHLVL\nTERM\n", result.Output.Replace("OLDPWD\n", ""));
    }

    [Fact]
    public async Task Panic_of_the_guest_names_the_last_lines_of_the_console()
    {
        VirtbusException error = await Assert.ThrowsAsync<VirtbusException>(() => RunAsync(["sh", "-c", "echo c >/proc/sysrq-trigger"]));
        Assert.Equal(Errno.EIO, error.Errno);
        Assert.Contains("Kernel panic", error.Message);
    }

    [Fact]
    public async Task Device_that_refuses_gives_QEMUs_reason()
    {
        RequireQemu();
        using TestFolder folder = new();
        string path = folder.PathOf("dead.sock");
        File.WriteAllText(path, "");
        VirtbusException error = await Assert.ThrowsAsync<VirtbusException>(
            () => RunAsync(["true"], devices: [new VmDevice("web1", VmDeviceKind.VhostUserBlk, path)]));
        Assert.Equal(Errno.EIO, error.Errno);
        Assert.Contains("'web1'", error.Message);
        Assert.Contains("Connection refused", error.Message);
    }

    [Fact]
    public async Task Guest_that_may_reboot_runs_its_command_at_each_boot()
    {
        RequireQemu();
        // Both stay open over the boots: each run of the command reads a line of its own.
        Pipe input = new();
        Pipe output = new();
        using StreamReader lines = new(output.Reader.AsStream());
        VmRunner runner = new(new VmOptions
        {
            Command = ["sh", "-c", "echo up; read word; [ $word = again ] && reboot -f; echo $word; exit 3"],
            Input = input.Reader.AsStream(),
            Output = output.Writer.AsStream(),
            CanReboot = true,
        });
        using Progress progress = new(Environment.ProcessId);
        Task<int> run = runner.RunAsync(progress.Token);
        foreach (string word in new[] { "again", "again", "end" })
        {
            Assert.Equal("up", await lines.ReadLineAsync(progress.Token));
            await input.Writer.WriteAsync(Encoding.ASCII.GetBytes(word + "\n"));
        }

        Assert.Equal(3, await run);
        Assert.Equal("end", await lines.ReadLineAsync(progress.Token));
    }

    [Fact]
    public async Task Guest_with_an_IOMMU_has_its_PCI_devices_behind_it()
    {
        RequireQemu();
        const string script = "ls /sys/class/iommu; for device in /sys/bus/pci/devices/*; do [ -e $device/iommu_group ] || echo $device; done";
        using MemoryStream output = new();
        VmRunner runner = new(new VmOptions { Command = ["sh", "-c", script], Iommu = true, Output = output });
        using Progress progress = new(Environment.ProcessId);
        await runner.RunAsync(progress.Token);
        Assert.Equal("dmar0\n", Encoding.ASCII.GetString(output.ToArray()));
    }

    [Fact]
    public async Task QEMU_with_a_vfio_user_client_is_found_or_made_and_runs()
    {
        Assert.SkipWhen(!Environment.IsPrivilegedProcess, "A private QEMU is made by root only.");
        QemuProgram qemu = await new QemuFinder(new Steps()).FindAsync(["vfio-user-pci", "pcie-root-port", "intel-iommu"], CancellationToken.None);
        string version = await HostCommand.RunTextAsync([.. qemu.Command, "--version"], "", CancellationToken.None);
        Assert.StartsWith("QEMU emulator version 1", version);
    }

    [Fact]
    public async Task Deadline_kills_the_guest_and_says_so()
    {
        VmRunner? used = null;
        VirtbusException error = await Assert.ThrowsAsync<VirtbusException>(
            () => RunAsync(["sleep", "1000"], deadline: TimeSpan.FromSeconds(2), seen: runner => used = runner));
        Assert.Equal(Errno.ETIMEDOUT, error.Errno);
        Assert.False(Directory.Exists($"/proc/{used!.QemuProcessId}"));
    }

    [Fact]
    public async Task Cancellation_leaves_no_process()
    {
        using CancellationTokenSource cancel = new();
        VmRunner? used = null;
        Task<Result> run = RunAsync(["sleep", "1000"], cancellation: cancel.Token, seen: runner => used = runner);
        using Progress progress = new(Environment.ProcessId);
        await used!.Up.WaitAsync(progress.Token);
        Assert.True(Directory.Exists($"/proc/{used.QemuProcessId}"));
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => run);
        Assert.False(Directory.Exists($"/proc/{used.QemuProcessId}"));
    }

    [Fact]
    public async Task Death_of_our_process_takes_QEMU_along()
    {
        RequireQemu();
        ProcessStartInfo start = new(Path.Combine(AppContext.BaseDirectory, "Virtbus.Tests.Vm")) { RedirectStandardOutput = true, UseShellExecute = false };
        start.ArgumentList.Add(Program.RunGuest);
        using Process parent = Process.Start(start)!;
        using Progress progress = new(parent.Id);
        string? line = await parent.StandardOutput.ReadLineAsync(progress.Token);
        using Process qemu = Process.GetProcessById(int.Parse(line!));
        parent.Kill();
        await qemu.WaitForExitAsync(progress.Token);
    }

    [Fact]
    public async Task Shell_has_a_terminal_with_job_control_and_its_exit_powers_off()
    {
        RequireQemu();
        // script gives the program a terminal whose other end is our pipes.
        ProcessStartInfo start = new("script") { RedirectStandardInput = true, RedirectStandardOutput = true, UseShellExecute = false };
        string program = Path.Combine(AppContext.BaseDirectory, "Virtbus.Tests.Vm");
        foreach (string argument in new[] { "--quiet", "--return", "--command", $"{program} {Program.RunShell}", "/dev/null" })
            start.ArgumentList.Add(argument);
        using Process shell = Process.Start(start)!;
        try
        {
            await SeeAsync(shell, "# ");
            await TypeAsync(shell, "sh -c 'echo $((6*7)) in $(tty); sleep 1000'\r");
            await SeeAsync(shell, "42 in /dev/ttyS0");
            await TypeAsync(shell, "\u0003");
            await SeeAsync(shell, "# ");
            await TypeAsync(shell, "exit\r");
            await WaitForExitAsync(shell);
            Assert.Equal(0, shell.ExitCode);
        }
        finally
        {
            shell.Kill(entireProcessTree: true);
        }
    }

    private static async Task TypeAsync(Process shell, string keys)
    {
        await shell.StandardInput.WriteAsync(keys);
        await shell.StandardInput.FlushAsync();
    }

    private static async Task SeeAsync(Process shell, string text)
    {
        StringBuilder seen = new();
        char[] one = new char[1];
        using Progress progress = new(shell.Id);
        while (!seen.ToString().EndsWith(text))
        {
            Assert.Equal(1, await shell.StandardOutput.ReadAsync(one, progress.Token));
            seen.Append(one[0]);
        }
    }

    private static async Task WaitForExitAsync(Process process)
    {
        using Progress progress = new(process.Id);
        await process.WaitForExitAsync(progress.Token);
    }

    private static async Task<Result> RunAsync(
        IReadOnlyList<string> command, IReadOnlyList<VmDevice>? devices = null, Stream? input = null, TimeSpan? deadline = null,
        Action<VmRunner>? seen = null, CancellationToken cancellation = default)
    {
        RequireQemu();
        MemoryStream output = new();
        MemoryStream error = new();
        VmRunner runner = new(new VmOptions
        {
            Command = command,
            Devices = devices ?? [],
            Input = input,
            Output = output,
            Error = error,
            Deadline = deadline,
        });
        seen?.Invoke(runner);
        using Progress progress = new(Environment.ProcessId);
        using CancellationTokenSource either = CancellationTokenSource.CreateLinkedTokenSource(cancellation, progress.Token);
        int code = await runner.RunAsync(either.Token);
        return new Result(code, output.ToArray(), error.ToArray());
    }

    private static void RequireQemu() =>
        Assert.SkipWhen(HostCommand.Find("qemu-system-x86_64") is null, "qemu-system-x86_64 is not installed: apt-get install qemu-system-x86.");

    private static void RequireStorageDaemon() =>
        Assert.SkipWhen(HostCommand.Find("qemu-storage-daemon") is null, "qemu-storage-daemon is not installed: apt-get install qemu-utils.");

    private sealed class Steps : IProgress<string>
    {
        public void Report(string value) => TestContext.Current.SendDiagnosticMessage(value);
    }

    private sealed record Result(int Code, byte[] RawOutput, byte[] RawError)
    {
        public string Output => Encoding.UTF8.GetString(RawOutput);

        public string Error => Encoding.UTF8.GetString(RawError);
    }
}
