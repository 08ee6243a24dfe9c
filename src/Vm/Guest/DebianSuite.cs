using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>
/// The packages of another Debian suite than those of this machine's apt sources, from the same mirror. Its package lists are in a folder of
/// their own, so the machine's apt knows nothing of it and no privilege is needed.
/// </summary>
internal static class DebianSuite
{
    private const string Keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    private const string Remedy = "Check the network, the name of the suite, and that package debian-archive-keyring is as new as the suite.";

    /// <summary>Fetches the suite's package lists and gives the options by which apt's programs see it instead of the machine's sources.</summary>
    /// <param name="suite">Its name, such as <c>trixie</c>.</param>
    /// <param name="folder">Where the lists go; what the options need is there.</param>
    /// <param name="progress">Gets a line, or null.</param>
    /// <param name="cancellation">Ends the fetching.</param>
    public static async Task<IReadOnlyList<string>> OpenAsync(string suite, string folder, IProgress<string>? progress, CancellationToken cancellation)
    {
        Check(suite);
        string sources = Path.Combine(folder, "sources.list");
        string signed = File.Exists(Keys) ? $"[signed-by={Keys}] " : "";
        await File.WriteAllTextAsync(sources, $"deb {signed}{AptSources.DebianMirror("/etc/apt")} {suite} main\n", cancellation);
        string[] options =
        [
            "-o", $"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null", "-o", $"Dir::State={folder}", "-o", $"Dir::Cache={folder}",
            "-o", "Acquire::Languages=none",
        ];
        progress?.Report($"Fetching the package lists of Debian {suite}");
        await HostCommand.RunAsync(["apt-get", .. options, "-o", "APT::Sandbox::User=root", "update"], Remedy, cancellation);
        return options;
    }

    /// <summary>Throws EINVAL for what is no name of a suite: it becomes part of a source line and of a path.</summary>
    public static void Check(string suite)
    {
        if (suite is "" or ['-', ..] or [.., '-'] || !suite.All(c => char.IsAsciiLetterLower(c) || c == '-'))
            throw new VirtbusException(Errno.EINVAL, $"'{suite}' is no name of a Debian suite. Those are such as 'bookworm', 'trixie' or 'trixie-backports'.");
    }
}
