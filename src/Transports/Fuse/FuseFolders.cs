using System.Runtime.InteropServices;
using System.Text;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>Folders that are listed: what is in one when it is opened is what its reader gets.</summary>
/// <param name="nodes">What the kernel knows.</param>
/// <param name="handles">What is open.</param>
/// <param name="names">What stands by a name.</param>
internal sealed class FuseFolders(FuseNodes nodes, FuseHandles handles, FuseNames names)
{
    // Before the entries: the folder itself, and the one above.
    private const int Dots = 2;

    internal void Open(FuseNode node, FuseReply reply)
    {
        if (FuseNodes.Current(node) is not { } folder)
            reply.End(node.Entry is TreeDirectory ? Errno.ENOENT : Errno.ENOTDIR);
        else
            reply.Send(new FuseOpenOut { Handle = handles.Add(new FuseHandle(node) { Entries = [.. folder.List()] }) });
    }

    internal void Read(in FuseRequest request, FuseReply reply, bool isPlus)
    {
        if (!request.TryTake(out FuseTransferIn asked) || !handles.TryGet(asked.Handle, out var handle) || handle.File is not null)
        {
            reply.End(Errno.EBADF);
            return;
        }

        var room = reply.Room[..(int)Math.Min(asked.Size, FuseProtocol.MaxRead)];
        var length = 0;
        for (var at = asked.Offset; at < (ulong)(handle.Entries.Length + Dots) && TryPut(handle, (int)at, room[length..], isPlus, out var taken); at++)
            length += taken;
        reply.Send(length);
    }

    private bool TryPut(FuseHandle handle, int at, Span<byte> room, bool isPlus, out int length)
    {
        var (folder, entry) = (handle.Node, at < Dots ? null : handle.Entries[at - Dots]);
        var name = entry?.Name ?? (at == 0 ? "." : "..");
        var before = isPlus ? FuseProtocol.EntrySize : 0;
        var bytes = Encoding.UTF8.GetByteCount(name);
        length = before + ((FuseProtocol.DirentSize + bytes + 7) & ~7);
        if (length > room.Length)
            return false;
        room[..length].Clear();
        ulong number;
        if (entry is null)
        {
            number = (at == 0 ? folder : folder.Parent ?? folder).Id;
        }
        else if (isPlus && nodes.Tell(folder, entry) is { } node)
        {
            number = node.Id;
            MemoryMarshal.Write(room, names.EntryOf(node));
        }
        else
        {
            // Without a number before it the kernel takes the name alone.
            number = nodes.IdOf(folder, name);
        }

        var type = FuseNames.ModeOf(entry ?? folder.Entry) >> 12;
        MemoryMarshal.Write(room[before..], new FuseDirent { Ino = number, Offset = (ulong)at + 1, NameLength = (uint)bytes, Type = type });
        Encoding.UTF8.GetBytes(name, room[(before + FuseProtocol.DirentSize)..]);
        return true;
    }
}
