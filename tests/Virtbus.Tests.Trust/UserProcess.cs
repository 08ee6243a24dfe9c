using System.Diagnostics;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Trust;

/// <summary>A process that uses devices, see <see cref="User"/>.</summary>
internal sealed class UserProcess : IDisposable
{
    private readonly Process _process;
    private readonly Task<string> _errors;

    public UserProcess()
    {
        _process = Process.Start(new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, "Virtbus.Tests.Trust"), [User.Argument])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        })!;
        _errors = _process.StandardError.ReadToEndAsync();
    }

    /// <summary>Gives it a job and waits for its first word.</summary>
    /// <returns><see cref="User.At"/> when it is there; else how the job ended before.</returns>
    public async Task<string> BeginAsync(UserJob job)
    {
        await _process.StandardInput.WriteLineAsync(job.ToLine());
        await _process.StandardInput.FlushAsync();
        return await ReadAsync();
    }

    /// <summary>Waits until the job has ended.</summary>
    /// <returns>How it did.</returns>
    public Task<string> EndAsync() => ReadAsync();

    /// <summary>Ends it as nothing can be done against (SIGKILL); it must not have ended before.</summary>
    public async Task KillAsync()
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        _process.Kill();
        await _process.WaitForExitAsync(deadline.Token);
        const int Killed = 128 + 9;
        Assert.True(_process.ExitCode == Killed, $"The user had ended with {_process.ExitCode}: {await _errors}");
    }

    public void Dispose()
    {
        if (!_process.HasExited)
            _process.Kill();
        _process.Dispose();
    }

    private async Task<string> ReadAsync()
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        return await _process.StandardOutput.ReadLineAsync(deadline.Token) ?? throw new DeviceFailure($"the user's process ended: {await _errors}");
    }
}
