using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>A channel for who has one request at a time.</summary>
public static class BlockChannelExtensions
{
    /// <summary>Does one request and waits for it. Nothing else is in flight on the channel.</summary>
    /// <param name="channel">The channel.</param>
    /// <param name="request">The request.</param>
    /// <returns>How it ended: <see cref="BlockRequest.Result"/>.</returns>
    public static Errno Do(this IBlockChannel channel, BlockRequest request)
    {
        ArgumentNullException.ThrowIfNull(channel);
        ArgumentNullException.ThrowIfNull(request);
        if (channel.Submit(request))
            return request.Result;
        channel.Commit();
        while (channel.TryReap() is null)
            channel.Wait(-1);
        return request.Result;
    }
}
