using System.Buffers.Binary;
using Virtbus.Platform;

namespace Virtbus.Virtio.Admin;

// The state that moves with the owner: what its driver set by commands.
internal sealed partial class AdminCommands
{
    private const string Section = "virtio-admin";
    private const ushort StateVersion = 1;
    // Both lists of commands 16, limits 2, reserved 6.
    private const int SavedHeader = 24;
    // Number 4, kind 1, reserved 3, number of the function 8.
    private const int SavedObject = 16;

    internal void Save(StateWriter writer)
    {
        lock (_lock)
        {
            ForgetGone();
            var bytes = new byte[SavedHeader + (_objects.Count * SavedObject)];
            _usedForSelf.Write(bytes);
            _usedForMembers.Write(bytes.AsSpan(AdminCommandSet.Size));
            _limits.Write(bytes.AsSpan(2 * AdminCommandSet.Size));
            var to = bytes.AsSpan(SavedHeader);
            foreach (var (id, one) in _objects.OrderBy(static pair => pair.Key))
            {
                BinaryPrimitives.WriteUInt32LittleEndian(to, id);
                to[4] = one.Kind;
                BinaryPrimitives.WriteUInt64LittleEndian(to[8..], one.Index);
                to = to[SavedObject..];
            }

            writer.Add(Section, StateVersion, bytes);
        }
    }

    /// <summary>Takes what <see cref="Save"/> wrote; it is not trusted, and not in force before the answer is called.</summary>
    internal bool TryRead(StateReader reader, out Action apply, out Fault fault)
    {
        apply = static () => { };
        if (!reader.TryTake(Section, StateVersion, SavedHeader, SavedHeader + (2 * MostObjects * SavedObject), out var section, out fault))
            return false;
        var from = section.Content.Span;
        AdminCommandSet.TryRead(from[..AdminCommandSet.Size], out var forSelf);
        AdminCommandSet.TryRead(from.Slice(AdminCommandSet.Size, AdminCommandSet.Size), out var forMembers);
        var limits = DevicePartsCapability.Read(from[(2 * AdminCommandSet.Size)..]);
        var objects = new Dictionary<uint, PartsObject>();
        var isRight = ForSelf.HasAll(forSelf) && ForMembers.HasAll(forMembers) && GoTogether(forSelf) && GoTogether(forMembers)
            && limits.GetLimit <= MostObjects && limits.SetLimit <= MostObjects && (from.Length - SavedHeader) % SavedObject == 0;
        for (var rest = from[SavedHeader..]; isRight && !rest.IsEmpty; rest = rest[SavedObject..])
        {
            var id = BinaryPrimitives.ReadUInt32LittleEndian(rest);
            isRight = id < Ids(limits) && rest[4] is ResourceObject.PartsGet or ResourceObject.PartsSet
                && objects.TryAdd(id, new PartsObject(rest[4], BinaryPrimitives.ReadUInt64LittleEndian(rest[8..]), Member: null));
        }

        if (!isRight || objects.Values.Count(static one => one.Kind == ResourceObject.PartsGet) > limits.GetLimit
            || objects.Values.Count(static one => one.Kind == ResourceObject.PartsSet) > limits.SetLimit)
        {
            fault = new Fault(Errno.EINVAL, $"section '{Section}', version {section.Version}, has commands or objects that there can't be");
            return false;
        }

        apply = () =>
        {
            lock (_lock)
            {
                (_usedForSelf, _usedForMembers, _limits) = (forSelf, forMembers, limits);
                _objects.Clear();
                foreach (var (id, one) in objects)
                    _objects.Add(id, one);
            }
        };
        return true;
    }
}
