using System.ComponentModel;
using System.Diagnostics;
using System.Text;
using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>Runs a tool of the host (apt-get, dpkg-deb, xz, debootstrap) to its end.</summary>
internal static class HostCommand
{
    private static string SearchPath => $"{Environment.GetEnvironmentVariable("PATH") ?? "/usr/bin:/bin"}:/usr/sbin:/sbin";

    /// <summary>Finds an executable in the folders of PATH and the two sbin folders that a plain user's PATH lacks.</summary>
    public static string? Find(string name) => FindAll(name).FirstOrDefault();

    /// <summary>Every executable of that name, in PATH order.</summary>
    public static IEnumerable<string> FindAll(string name)
    {
        return SearchPath.Split(':', StringSplitOptions.RemoveEmptyEntries)
            .Select(folder => Path.Combine(folder, name))
            .Where(IsExecutable);
    }

    /// <summary>True when the path is a file that somebody may execute.</summary>
    public static bool IsExecutable(string path)
    {
        const UnixFileMode any = UnixFileMode.UserExecute | UnixFileMode.GroupExecute | UnixFileMode.OtherExecute;
        return File.Exists(path) && (File.GetUnixFileMode(path) & any) != UnixFileMode.None;
    }

    /// <summary>The tool's output as text. Throws with the end of its error output when it is not there or fails.</summary>
    public static async Task<string> RunTextAsync(IReadOnlyList<string> argv, string remedy, CancellationToken cancellation, string? folder = null) =>
        Encoding.UTF8.GetString(await RunAsync(argv, remedy, cancellation, folder));

    /// <summary>The tool's output. Throws with the end of its error output when it is not there or fails.</summary>
    public static async Task<byte[]> RunAsync(IReadOnlyList<string> argv, string remedy, CancellationToken cancellation, string? folder = null)
    {
        ProcessStartInfo start = new(argv[0])
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = folder ?? "/",
        };
        foreach (string argument in argv.Skip(1))
            start.ArgumentList.Add(argument);
        // Tools are parsed by their English output, and must not ask questions.
        start.Environment["LC_ALL"] = "C";
        // debootstrap runs tools of its own from sbin, which is not in the path of one who became root by su.
        start.Environment["PATH"] = SearchPath;
        start.Environment["DEBIAN_FRONTEND"] = "noninteractive";

        using Process process = new() { StartInfo = start };
        try
        {
            process.Start();
        }
        catch (Win32Exception e)
        {
            throw new VirtbusException(Errno.ENOENT, $"'{argv[0]}' cannot be run: {e.Message}. {remedy}", e);
        }

        process.StandardInput.Close();
        using MemoryStream output = new();
        Task copy = process.StandardOutput.BaseStream.CopyToAsync(output, cancellation);
        Task<string> error = process.StandardError.ReadToEndAsync(cancellation);
        try
        {
            await Task.WhenAll(copy, error);
            await process.WaitForExitAsync(cancellation);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            await process.WaitForExitAsync(CancellationToken.None);
            throw;
        }

        if (process.ExitCode != 0)
        {
            string command = string.Join(' ', argv);
            throw new VirtbusException(Errno.EIO, $"'{command}' failed with code {process.ExitCode}: {LastLines(await error, 5)}. {remedy}");
        }

        return output.ToArray();
    }

    /// <summary>The last lines of a text, without the empty ones.</summary>
    public static string LastLines(string text, int count) =>
        string.Join('\n', text.Split('\n').Select(line => line.TrimEnd()).Where(line => line.Length != 0).TakeLast(count));
}
