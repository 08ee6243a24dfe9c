using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>Where the replies to a run of requests go. Called by whoever reads the socket, under the channel's gate.</summary>
internal interface IVfioUserRun
{
    /// <summary>The command of a request, which its reply must repeat.</summary>
    VfioUserCommand CommandOf(int index);

    /// <summary>The peer refused a request.</summary>
    void Fail(int index, Errno error);

    /// <summary>Takes a reply's payload.</summary>
    /// <returns>False when it is shorter than what was asked for.</returns>
    bool TryStore(int index, ReadOnlySpan<byte> payload);
}
