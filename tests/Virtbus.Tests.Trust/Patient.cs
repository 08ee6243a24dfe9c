using System.Diagnostics;
using Virtbus.Remote.Pci.VfioUser;

namespace Virtbus.Tests.Trust;

/// <summary>Waits of a user of a device, which end when the device was taken away: what it was asked for does not come any more.</summary>
internal static class Patient
{
    private static readonly TimeSpan BetweenLooks = TimeSpan.FromMilliseconds(50);

    /// <param name="client">The device.</param>
    /// <param name="isDone">What is waited for.</param>
    /// <param name="patience">How long at most.</param>
    /// <returns>False when it does not come, in time or at all.</returns>
    public static bool Await(VfioUserClient client, Func<bool> isDone, TimeSpan patience)
    {
        var begin = Stopwatch.GetTimestamp();
        var looked = begin;
        while (!isDone())
        {
            if (Stopwatch.GetElapsedTime(begin) > patience)
                return false;
            if (Stopwatch.GetElapsedTime(looked) > BetweenLooks)
            {
                if (!IsThere(client))
                    return false;
                looked = Stopwatch.GetTimestamp();
            }
            Thread.Yield();
        }
        return true;
    }

    private static bool IsThere(VfioUserClient client)
    {
        Span<byte> vendor = stackalloc byte[2];
        return client.TryRead(UserDevice.ConfigRegion, 0, vendor, out _);
    }
}
