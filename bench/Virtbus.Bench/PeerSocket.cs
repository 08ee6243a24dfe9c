using System.Diagnostics;

namespace Virtbus.Bench;

/// <summary>The socket of a server that is measured, ours or a peer's.</summary>
internal static class PeerSocket
{
    private const int Looks = 1000;

    /// <summary>Waits until its file is there: some 20 s at most, or until the server has ended. Nothing tells of it that all peers have.</summary>
    /// <param name="path">The socket's file.</param>
    /// <param name="server">Who makes it.</param>
    internal static async Task AwaitAsync(string path, Process server)
    {
        for (var i = 0; i < Looks && !File.Exists(path) && !server.HasExited; i++)
            await Task.Delay(20);
    }
}
