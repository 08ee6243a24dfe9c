using System.Collections;
using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>Another program in this process's place (execve): the same process id, terminal and descriptors, and nothing of this program any more.</summary>
public static class ProcessImage
{
    private const int SIGPIPE = 13;

    /// <summary>Runs a program in this one's place. Returns only when that failed.</summary>
    /// <param name="command">Its name, looked for on the PATH when it has no '/', and its arguments.</param>
    /// <returns>The errno: ENOENT: no such program; EACCES: none that may be run.</returns>
    public static unsafe Errno Replace(IReadOnlyList<string> command)
    {
        ArgumentNullException.ThrowIfNull(command);
        string[] environment = [.. Environment.GetEnvironmentVariables().Cast<DictionaryEntry>().Select(static e => $"{e.Key}={e.Value}")];
        var (arguments, variables) = (ToNative(command), ToNative(environment));
        // This runtime writes to pipes that nobody reads without being ended by it; a program inherits that.
        var handler = Libc.signal(SIGPIPE, 0);
        // SAFETY: both lists end with a null, and their strings last until they are freed below.
        fixed (nint* argv = arguments, envp = variables)
            _ = Libc.execvpe(command[0], argv, envp);
        var error = Libc.LastError;
        _ = Libc.signal(SIGPIPE, handler);
        foreach (var text in arguments.Concat(variables))
            Marshal.FreeCoTaskMem(text);
        return error;
    }

    private static nint[] ToNative(IEnumerable<string> texts) => [.. texts.Select(Marshal.StringToCoTaskMemUTF8), 0];
}
