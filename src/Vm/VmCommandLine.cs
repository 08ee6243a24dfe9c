using System.Text;
using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>How a guest with a shell is started without us: the command line, and what it needs.</summary>
/// <param name="Arguments">The program and its arguments.</param>
/// <param name="Kernel">The kernel's image.</param>
/// <param name="Initramfs">The guest's initramfs.</param>
/// <param name="CacheFolder">Where what was fetched or made for guests is kept, until somebody deletes it.</param>
public sealed record VmCommandLine(IReadOnlyList<string> Arguments, string Kernel, string Initramfs, string CacheFolder)
{
    /// <summary>The command for a POSIX shell, an option a line.</summary>
    public string Text
    {
        get
        {
            var text = new StringBuilder();
            for (var i = 0; i < Arguments.Count; i++)
            {
                if (i > 0)
                    text.Append(StartsLine(i) ? " \\\n  " : " ");
                text.Append(ShellQuote.Quote(Arguments[i]));
            }

            return text.ToString();
        }
    }

    // A private QEMU is run by its loader, whose options come before QEMU's and stay on the first line.
    private bool StartsLine(int index) => Arguments[index].StartsWith('-') && !Arguments[index].StartsWith("--", StringComparison.Ordinal) && Arguments[index] != "-L";
}
