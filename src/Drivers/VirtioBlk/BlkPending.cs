using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>A user's request in work: how far it is cut into pieces, and how many of them are out. The channel's thread.</summary>
/// <param name="number">Which of the channel's.</param>
internal sealed class BlkPending(int number)
{
    internal int Number => number;

    internal BlockRequest Request { get; private set; } = null!;

    /// <summary>What is asked of the device now: a durable write is a write, and then a flush.</summary>
    internal BlockOperation Operation { get; set; }

    /// <summary>Bytes that are in pieces already.</summary>
    internal long Done { get; set; }

    /// <summary>Where in the runs the next piece begins.</summary>
    internal BlkPlace Place { get; set; }

    /// <summary>How many pieces are out.</summary>
    internal int Out { get; set; }

    /// <summary>Whether it waits for slots.</summary>
    internal bool IsWaiting { get; set; }

    /// <summary>What went wrong first.</summary>
    internal Errno Result { get; set; }

    internal void Begin(BlockRequest request)
    {
        Request = request;
        Operation = request.Operation;
        (Done, Place, Out, Result) = (0, default, 0, Errno.None);
    }

    /// <summary>Gives the request back.</summary>
    internal BlockRequest End()
    {
        var request = Request;
        request.Result = Result;
        Request = null!;
        return request;
    }
}
