using Virtbus.Block;
using Virtbus.Platform;
using static Virtbus.Transports.Nbd.NbdProtocol;

namespace Virtbus.Transports.Nbd;

/// <summary>Requests in pieces that the disk takes, each checked by what the disk is when it goes there. One thread.</summary>
internal sealed class NbdPieces : IDisposable
{
    private const int ZeroesSize = 256 << 10;
    private readonly NbdExport _export;
    private readonly IoVector[] _runs;
    private AlignedBuffer? _zeroes;

    /// <param name="export">The disk, as clients see it.</param>
    /// <param name="depth">How many places for requests there are.</param>
    internal NbdPieces(NbdExport export, int depth)
    {
        _export = export;
        _runs = GC.AllocateArray<IoVector>(depth, pinned: true);
    }

    public void Dispose() => _zeroes?.Dispose();

    /// <summary>Makes the next piece.</summary>
    /// <param name="request">The request, and where the piece goes.</param>
    /// <returns>False when there is none: all is done, or an error says why nothing more can be.</returns>
    internal bool TryPrepare(NbdRequest request)
    {
        var left = request.Length - request.Done;
        if (left == 0 || request.Command == NbdCommand.FLUSH)
            return TryPrepareFlush(request);
        var info = _export.Backend.Info;
        var block = request.Block;
        block.Offset = request.Offset + request.Done;
        block.IsDurable = request.Has(NBD_CMD_FLAG_FUA);
        block.MayUnmap = !request.Has(NBD_CMD_FLAG_NO_HOLE);
        block.ClearRuns();
        switch (request.Command)
        {
            case NbdCommand.TRIM:
                block.Operation = BlockOperation.Discard;
                block.Length = Bound(left, info.MaxDiscard, info);
                // A hint, which nobody has to follow.
                return block.Length > 0 && IsAllowed(request, info);
            case NbdCommand.WRITE_ZEROES when !request.WritesZeroes:
                block.Operation = BlockOperation.WriteZeroes;
                block.Length = Bound(left, info.MaxWriteZeroes, info);
                return block.Length > 0 ? IsAllowed(request, info) : RefusesZeroes(request) && TryPrepare(request);
            case NbdCommand.WRITE_ZEROES:
                block.Operation = BlockOperation.Write;
                _zeroes ??= MakeZeroes();
                block.Length = Transfer(Math.Min(left, ZeroesSize), info);
                SetRun(request, _zeroes.Take((int)block.Length));
                return IsAllowed(request, info);
            default:
                block.Operation = request.Command == NbdCommand.READ ? BlockOperation.Read : BlockOperation.Write;
                block.Length = Transfer(left, info);
                var whole = request.Buffer!.Take((int)request.Length);
                SetRun(request, new IoVector(whole.Address + (nint)request.Done, (nuint)block.Length));
                return IsAllowed(request, info);
        }
    }

    /// <summary>Takes what a piece ended with.</summary>
    /// <returns>False when the request ends with it.</returns>
    internal static bool GoesOn(NbdRequest request)
    {
        var block = request.Block;
        if (block.Result == Errno.None)
        {
            request.Done += block.Length;
            return !request.IsFlushing;
        }

        if (block.Result == Errno.EOPNOTSUPP && block.Operation == BlockOperation.Discard)
            return false;
        if (block.Result == Errno.EOPNOTSUPP && block.Operation == BlockOperation.WriteZeroes)
            return RefusesZeroes(request);
        request.Error = NbdErrors.Of(block.Result);
        return false;
    }

    // The disk makes no zeros of what is left: they are written, which is not what who wants it fast wants.
    private static bool RefusesZeroes(NbdRequest request)
    {
        if (request.Has(NBD_CMD_FLAG_FAST_ZERO))
            request.Error = NbdError.ENOTSUP;
        else
            request.WritesZeroes = true;
        return request.Error == NbdError.None;
    }

    private static long Bound(long length, long most, BlockInfo info) => Math.Min(length, most & -info.BlockSize);

    private static long Transfer(long length, BlockInfo info) => info.MaxTransfer == 0 ? length : Bound(length, info.MaxTransfer, info);

    // The disk may have become another one since the request was taken: its payload comes when the client likes.
    private bool IsAllowed(NbdRequest request, BlockInfo info)
    {
        var block = request.Block;
        var writes = block.Operation != BlockOperation.Read;
        if (writes && _export.RefusesWrites)
            request.Error = NbdError.EPERM;
        else if (block.Length <= 0)
            request.Error = NbdError.EIO;
        else if (!info.Holds(block.Offset, block.Length))
            request.Error = block.Operation is BlockOperation.Write or BlockOperation.WriteZeroes ? NbdError.ENOSPC : NbdError.EINVAL;
        return request.Error == NbdError.None;
    }

    private void SetRun(NbdRequest request, IoVector run)
    {
        var place = _runs.AsSpan(request.Place, 1);
        place[0] = run;
        request.Block.SetRuns(place);
    }

    // A flush, or what makes zeros and discards durable, where a write says that of itself.
    private static bool TryPrepareFlush(NbdRequest request)
    {
        var isWanted = request.Command == NbdCommand.FLUSH ||
            (request.Has(NBD_CMD_FLAG_FUA) && request.Command is NbdCommand.TRIM or NbdCommand.WRITE_ZEROES && request.Done > 0);
        if (!isWanted || request.IsFlushing)
            return false;
        request.IsFlushing = true;
        request.Block.Operation = BlockOperation.Flush;
        request.Block.Offset = 0;
        request.Block.Length = 0;
        request.Block.ClearRuns();
        return true;
    }

    private static AlignedBuffer MakeZeroes()
    {
        var zeroes = new AlignedBuffer(ZeroesSize, Environment.SystemPageSize);
        zeroes.Take(ZeroesSize).AsSpan().Clear();
        return zeroes;
    }
}
