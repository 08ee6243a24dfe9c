using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Virtbus.Tests.Cli;

[assembly: System.Runtime.Versioning.SupportedOSPlatform("linux")]

namespace Virtbus.Tests.Guest;

/// <summary>A run of <c>virtbus vm</c>: a real guest with devices of a fabric, in which a shell script runs that the test talks with.</summary>
internal sealed class Guest
{
    private readonly Process _program;
    private readonly Task<string> _errors;

    private Guest(Process program)
    {
        _program = program;
        _errors = program.StandardError.ReadToEndAsync();
    }

    /// <summary>Starts a guest. Its script ends with the first command that fails.</summary>
    /// <param name="fabric">The fabric, which is up.</param>
    /// <param name="script">What the guest's shell runs. Its standard error is for what a failing test shows.</param>
    /// <param name="devices">Names of the devices, in the order in which the guest has them; and options of the verb.</param>
    public static Guest Start(TestFabric fabric, string script, params string[] devices) => StartOn(fabric, null, script, devices);

    /// <summary>As the other one, on a QEMU of the test's choice; null for the one that the program finds.</summary>
    public static Guest StartOn(TestFabric fabric, string? qemu, string script, params string[] devices)
    {
        RequireQemu();
        string[] arguments = ["vm", .. devices, "--", "sh", "-c", "set -e\n" + script];
        return new Guest(qemu is null ? fabric.Start(arguments) : fabric.StartProgram("VIRTBUS_QEMU=" + qemu, [TestFabric.Program, .. arguments]));
    }

    /// <summary>Skips a test on a host that can't run guests.</summary>
    public static void RequireQemu()
    {
        // Installed by packaging/test-packages.txt, so one who could install it and did not sees the tests fail.
        Assert.SkipWhen(RuntimeInformation.OSArchitecture != Architecture.X64, "Guests are x86-64 and run on x86-64 only.");
        var hasQemu = Environment.GetEnvironmentVariable("VIRTBUS_QEMU") is not null ||
            Environment.GetEnvironmentVariable("PATH")!.Split(':').Any(folder => File.Exists(Path.Combine(folder, "qemu-system-x86_64")));
        Assert.SkipWhen(!hasQemu && !Environment.IsPrivilegedProcess, "qemu-system-x86_64 is not installed and may not be: apt-get install qemu-system-x86.");
    }

    /// <summary>Runs a script to its end and gives the lines that it printed.</summary>
    public static Task<string[]> RunAsync(TestFabric fabric, string script, params string[] devices) => Start(fabric, script, devices).EndAsync();

    /// <summary>Reads the next lines of the script's output, which must be the expected ones.</summary>
    public async Task SeeAsync(params string[] lines)
    {
        foreach (var line in lines)
            await SeeAsync(line);
    }

    /// <summary>Reads the next line of the script's output, which must be the expected one.</summary>
    public async Task SeeAsync(string line)
    {
        using var progress = new Progress(_program.Id);
        string? read;
        try
        {
            read = await _program.StandardOutput.ReadLineAsync(progress.Token);
        }
        catch (OperationCanceledException e)
        {
            throw new TimeoutException($"The guest was to print '{line}': {progress.Why}.", e);
        }

        Assert.True(read == line, $"The guest was to print '{line}', but printed '{read}'. {(read is null ? await _errors.WaitAsync(progress.Token) : "")}");
    }

    /// <summary>Reads the next line of the script's output, whatever it is.</summary>
    public async Task<string> HearAsync()
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var read = await _program.StandardOutput.ReadLineAsync(deadline.Token);
        Assert.True(read is not null, read is null ? await _errors.WaitAsync(deadline.Token) : "");
        return read!;
    }

    /// <summary>Writes a line to the script's standard input.</summary>
    public async Task TellAsync(string line)
    {
        await _program.StandardInput.WriteLineAsync(line);
        await _program.StandardInput.FlushAsync();
    }

    /// <summary>Writes bytes to the script's standard input.</summary>
    public async Task TellAsync(byte[] bytes)
    {
        await _program.StandardInput.BaseStream.WriteAsync(bytes);
        await _program.StandardInput.BaseStream.FlushAsync();
    }

    /// <summary>Closes the script's standard input, waits until it has ended well, and gives the lines not read so far.</summary>
    public async Task<string[]> EndAsync()
    {
        var (code, output, errors) = await WaitAsync();
        Assert.True(code == 0, $"The guest's script ended with {code}: {output}{errors}");
        return output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
    }

    /// <summary>Waits until the guest has died under its script, and gives what the program says of that.</summary>
    public async Task<string> DieAsync()
    {
        var (code, output, errors) = await WaitAsync();
        Assert.True(code == 1 && errors.Contains("virtbus: ", StringComparison.Ordinal), $"{code}: {output}{errors}");
        return errors;
    }

    /// <summary>Waits until something outside of the guest is as its script makes it.</summary>
    public void Until(Func<bool> condition, string what)
    {
        using var progress = new Progress(_program.Id);
        progress.Until(condition, what);
    }

    /// <summary>Kills QEMU as it runs.</summary>
    public void KillQemu()
    {
        var children = Directory.GetDirectories($"/proc/{_program.Id}/task").SelectMany(task => File.ReadAllText(task + "/children").Split(' ', StringSplitOptions.RemoveEmptyEntries));
        using var qemu = Process.GetProcessById(int.Parse(Assert.Single(children), CultureInfo.InvariantCulture));
        qemu.Kill();
    }

    /// <summary>Kills the program, and QEMU with it.</summary>
    public async Task KillAsync()
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        _program.Kill();
        await _program.WaitForExitAsync(deadline.Token);
    }

    private async Task<(int Code, string Output, string Errors)> WaitAsync()
    {
        using var progress = new Progress(_program.Id);
        _program.StandardInput.Close();
        try
        {
            var output = await _program.StandardOutput.ReadToEndAsync(progress.Token);
            var errors = await _errors.WaitAsync(progress.Token);
            await _program.WaitForExitAsync(progress.Token);
            return (_program.ExitCode, output, errors);
        }
        catch (OperationCanceledException e)
        {
            throw new TimeoutException($"The guest was to end: {progress.Why}.", e);
        }
    }
}
