using System.ComponentModel;
using System.Diagnostics;
using System.Text;
using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>A running QEMU. Disposing kills it and waits until it is gone.</summary>
internal sealed class QemuProcess : IAsyncDisposable
{
    private const int KeptBytes = 64 * 1024;

    private readonly Process _process;
    private readonly TaskCompletionSource<int> _exit = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private QemuProcess(Process process) => _process = process;

    /// <summary>The process id.</summary>
    public int Id => _process.Id;

    /// <summary>Completes with the exit code.</summary>
    public Task<int> Exited => _exit.Task;

    /// <summary>QEMU's standard output; only when it was started with its output redirected.</summary>
    public Stream Output => _process.StandardOutput.BaseStream;

    /// <summary>QEMU's error messages; only when it was started with its output redirected.</summary>
    public Stream Error => _process.StandardError.BaseStream;

    /// <summary>Starts QEMU.</summary>
    /// <param name="qemu">The program.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="redirect">False to let it have our terminal.</param>
    public static async Task<QemuProcess> StartAsync(QemuProgram qemu, IEnumerable<string> arguments, bool redirect)
    {
        List<string> command = [.. qemu.Command, .. arguments];
        // If we are killed, the kernel kills QEMU. It becomes QEMU by exec, so the process id stays.
        if (HostCommand.Find("setpriv") is { } setpriv)
            command.InsertRange(0, [setpriv, "--pdeathsig", "KILL", "--"]);
        // A session of its own: Ctrl-C is for us to handle, and QEMU must not see it first.
        if (redirect && HostCommand.Find("setsid") is { } setsid)
            command.Insert(0, setsid);
        ProcessStartInfo start = new(command[0])
        {
            UseShellExecute = false,
            RedirectStandardInput = redirect,
            RedirectStandardOutput = redirect,
            RedirectStandardError = redirect,
        };
        foreach (string argument in command.Skip(1))
            start.ArgumentList.Add(argument);

        QemuProcess running = new(new Process { StartInfo = start });
        TaskCompletionSource started = new(TaskCreationOptions.RunContinuationsAsynchronously);
        // The "parent" whose death counts is the thread that started QEMU: it has to live as long as QEMU does.
        Thread parent = new(() => running.RunToEnd(started)) { IsBackground = true, Name = "qemu" };
        parent.Start();
        try
        {
            await started.Task;
        }
        catch (Win32Exception e)
        {
            throw new VirtbusException(Errno.ENOENT, $"QEMU '{qemu.Path}' cannot be run: {e.Message}. Set VIRTBUS_QEMU to one that can.", e);
        }

        return running;
    }

    /// <summary>Kills QEMU at once.</summary>
    public void Kill() => _process.Kill();

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        _process.Kill();
        await Exited;
        _process.Dispose();
    }

    /// <summary>Reads a stream to its end and keeps the last of it.</summary>
    /// <param name="stream">What to read.</param>
    /// <param name="kept">Where the text goes. Locked while it changes.</param>
    /// <param name="seen">Is called after each change.</param>
    public static async Task KeepTailAsync(Stream stream, StringBuilder kept, Action<StringBuilder>? seen = null)
    {
        byte[] buffer = new byte[4096];
        int count;
        while ((count = await stream.ReadAsync(buffer)) != 0)
        {
            lock (kept)
            {
                kept.Append(Encoding.Latin1.GetString(buffer, 0, count));
                if (kept.Length > KeptBytes)
                    kept.Remove(0, kept.Length - KeptBytes);
                seen?.Invoke(kept);
            }
        }
    }

    private void RunToEnd(TaskCompletionSource started)
    {
        try
        {
            _process.Start();
        }
        catch (Exception e)
        {
            started.SetException(e);
            return;
        }

        started.SetResult();
        _process.WaitForExit();
        _exit.SetResult(_process.ExitCode);
    }
}
