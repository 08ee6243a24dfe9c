using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Cli.Text;

/// <summary>Standard output did not take what a verb had to tell.</summary>
/// <param name="errno">Why; EPIPE: whoever read it has gone.</param>
internal sealed class OutputException(Errno errno) : Exception(
    $"Standard output can't be written: {Marshal.GetPInvokeErrorMessage((int)errno)}. {(errno == Errno.EBADF ? "Open it, or send it to /dev/null." : "Make room there, or send it elsewhere.")}")
{
    /// <summary>Why.</summary>
    public Errno Errno => errno;

    /// <summary>What became of that which the verb was asked for, as a sentence; empty when it was asked to tell something and nothing else.</summary>
    public string Outcome { get; set; } = "";
}
