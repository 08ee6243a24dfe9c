using System.Diagnostics;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>A program that is installed on this machine, which a guest takes with its libraries from its standard input.</summary>
/// <param name="name">Its name, which the guest's script calls it by, too.</param>
internal sealed class InstalledProgram(string name)
{
    private const int Block = 4096;
    private readonly Task<byte[]> _archive = PackAsync(name);

    /// <summary>The begin of a script that takes the program: a folder of its own is its root.</summary>
    public async Task<string> PreludeAsync() => $$"""
        echo send
        dd of=/tmp/{{name}}.tar bs={{Block}} count={{(await _archive).Length / Block}} iflag=fullblock
        mkdir -p /opt/{{name}}
        tar -xf /tmp/{{name}}.tar -C /opt/{{name}}
        {{name}}() { chroot /opt/{{name}} /{{name}} "$@"; }

        """;

    /// <summary>Sends the program to a guest whose script has the prelude.</summary>
    public async Task SendAsync(Guest guest)
    {
        await guest.SeeAsync("send");
        await guest.TellAsync(await _archive);
    }

    private static async Task<byte[]> PackAsync(string name)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        // Records of a block, so that it has whole ones.
        var script = $"PATH=$PATH:/usr/sbin:/sbin; p=$(command -v {name}) && cd / && exec tar -chPb 8 --transform=\"s,^$p$,{name},\" $p $(ldd $p | grep -o '/[^ ]*')";
        using var tar = Process.Start(new ProcessStartInfo("sh", ["-c", script]) { RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false })!;
        var errors = tar.StandardError.ReadToEndAsync(deadline.Token);
        using var archive = new MemoryStream();
        await tar.StandardOutput.BaseStream.CopyToAsync(archive, deadline.Token);
        await tar.WaitForExitAsync(deadline.Token);
        Assert.True(tar.ExitCode == 0, $"{name} is not installed: {await errors}");
        Assert.Equal(0, archive.Length % Block);
        return archive.ToArray();
    }
}
