using System.Text;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>Names and what stands by them: who is there, how long, whose.</summary>
/// <param name="nodes">What the kernel knows.</param>
/// <param name="options">What the mount is made with.</param>
/// <param name="time">What every file says of when it was made.</param>
internal sealed class FuseNames(FuseNodes nodes, FuseMountOptions options, DateTimeOffset time)
{
    /// <summary>What a text file says it is long, and what a program reads at once.</summary>
    internal const int BlockSize = 4096;

    // The kernel is told of what changes; that it was not, it finds out after so many seconds.
    private const ulong Validity = 1;
    private const uint FolderMode = FuseProtocol.S_IFDIR | 0x1ED;
    private const uint LinkMode = FuseProtocol.S_IFLNK | 0x1FF;
    private const uint NotOurs = FuseProtocol.FATTR_MODE | FuseProtocol.FATTR_UID | FuseProtocol.FATTR_GID;

    internal void LookUp(FuseNode folder, in FuseRequest request, FuseReply reply)
    {
        if (!request.TryTakeName(out var name) || FuseNodes.Current(folder)?.Find(name) is not { IsGone: false } entry)
            reply.End(Errno.ENOENT);
        else if (nodes.Tell(folder, entry) is not { } node)
            reply.End(Errno.ENOMEM);
        else
            reply.Send(EntryOf(node));
    }

    internal void GetAttributes(FuseNode node, FuseReply reply) => reply.Send(new FuseAttrOut { AttrValid = Validity, Attr = AttributesOf(node) });

    // A file is cut short by who writes to it with '>', and touched by who knows no better; to both it makes no difference.
    internal void SetAttributes(FuseNode node, in FuseRequest request, FuseReply reply)
    {
        if (!request.TryTake(out uint what) || (what & NotOurs) != 0)
            reply.End(Errno.EPERM);
        else
            GetAttributes(node, reply);
    }

    internal void ReadLink(FuseNode node, FuseReply reply)
    {
        if (node is not { Entry: TreeLink link, Parent: { } folder })
            reply.End(Errno.EINVAL);
        else
            reply.Send(Encoding.UTF8.GetBytes(link.TextFrom(folder.Path), reply.Room));
    }

    internal FuseEntryOut EntryOf(FuseNode node) => new() { NodeId = node.Id, EntryValid = Validity, AttrValid = Validity, Attr = AttributesOf(node) };

    internal static uint ModeOf(TreeNode entry) => entry switch
    {
        TreeDirectory => FolderMode,
        TreeLink => LinkMode,
        _ => FuseProtocol.S_IFREG | (uint)((TreeFile)entry).Mode,
    };

    private FuseAttributes AttributesOf(FuseNode node)
    {
        var at = (ulong)time.ToUnixTimeSeconds();
        return new FuseAttributes
        {
            Ino = node.Id,
            Size = node.Entry switch
            {
                TreeLink link => (ulong)Encoding.UTF8.GetByteCount(link.TextFrom(node.Parent!.Path)),
                TreeFile { IsBinary: true } file => (ulong)file.Size,
                TreeFile => BlockSize,
                _ => 0,
            },
            Atime = at,
            Mtime = at,
            Ctime = at,
            Mode = ModeOf(node.Entry),
            Nlink = node.Entry is TreeDirectory ? 2u : 1u,
            Uid = options.User,
            Gid = options.Group,
            BlkSize = BlockSize,
        };
    }
}
