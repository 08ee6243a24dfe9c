using System.Buffers.Binary;
using System.Text;

namespace Virtbus.Platform;

/// <summary>
/// Takes a state apart that a <see cref="StateWriter"/> put together, perhaps in another version of the program. What it gets is not trusted:
/// its form is checked whole before anybody sees a section. Whoever restores takes the sections that it knows and then asks
/// <see cref="TryFinish"/> whether that was all. One thread at a time.
/// </summary>
public sealed class StateReader
{
    private readonly Dictionary<string, StateSection> _sections = [];

    private StateReader()
    {
    }

    /// <summary>Checks the form of a state and finds its sections.</summary>
    /// <param name="state">The bytes, which must not change while the reader is in use.</param>
    /// <param name="maxSize">The most bytes that such a state may have.</param>
    /// <param name="reader">The reader.</param>
    /// <param name="fault">EINVAL: it is no state, of a form that is not known, too large, cut off, longer than it says, or has a section twice.</param>
    public static bool TryRead(ReadOnlyMemory<byte> state, int maxSize, out StateReader reader, out Fault fault)
    {
        reader = new StateReader();
        var bytes = state.Span;
        if (bytes.Length > maxSize)
            return Refuse($"the state has {bytes.Length} bytes; the most is {maxSize}", out fault);
        if (bytes.Length < StateForm.HeaderSize || BinaryPrimitives.ReadUInt32LittleEndian(bytes) != StateForm.Magic)
            return Refuse("the bytes are no state: their beginning is that of something else", out fault);
        var form = BinaryPrimitives.ReadUInt16LittleEndian(bytes[4..]);
        if (form != StateForm.Version)
            return Refuse($"the state is of form {form}; form {StateForm.Version} is read", out fault);
        if (BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]) != (uint)bytes.Length)
            return Refuse($"the state says that it has {BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..])} bytes, and has {bytes.Length}", out fault);
        var at = StateForm.HeaderSize;
        for (var left = BinaryPrimitives.ReadUInt16LittleEndian(bytes[6..]); left > 0; left--)
        {
            if (!reader.TryReadSection(state[at..], out var size, out fault))
                return false;
            at += size;
        }
        return at == bytes.Length ? Done(out fault) : Refuse($"the state has {bytes.Length - at} bytes behind its last section", out fault);
    }

    /// <summary>Takes a section that has to be there.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="newest">The newest version that the caller knows.</param>
    /// <param name="minLength">The least bytes of content that make sense.</param>
    /// <param name="maxLength">The most.</param>
    /// <param name="section">The section.</param>
    /// <param name="fault">EINVAL: it is missing, of a newer version, or its length is none; the section and the version are named.</param>
    public bool TryTake(string name, ushort newest, int minLength, int maxLength, out StateSection section, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(name);
        return _sections.Remove(name, out section)
            ? Fits(section, newest, minLength, maxLength, out fault)
            : Refuse($"section '{name}' is missing", out fault);
    }

    /// <summary>Takes a section that may be missing.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="newest">The newest version that the caller knows.</param>
    /// <param name="minLength">The least bytes of content that make sense.</param>
    /// <param name="maxLength">The most.</param>
    /// <param name="section">The section; null when it is not there, and when it says itself that it may be left out and is of a newer version.</param>
    /// <param name="fault">EINVAL: it is of a newer version, or its length is none; the section and the version are named.</param>
    public bool TryTakeIfThere(string name, ushort newest, int minLength, int maxLength, out StateSection? section, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(name);
        section = null;
        if (!_sections.Remove(name, out var found))
            return Done(out fault);
        if (found is { IsOptional: true } && found.Version > newest)
            return Done(out fault);
        if (!Fits(found, newest, minLength, maxLength, out fault))
            return false;
        section = found;
        return Done(out fault);
    }

    /// <summary>Whether all that is in the state was taken, but for what may be left out.</summary>
    /// <param name="fault">EINVAL: a section that nobody knows; it and its version are named.</param>
    public bool TryFinish(out Fault fault)
    {
        foreach (var section in _sections.Values)
        {
            if (!section.IsOptional)
                return Refuse($"section '{section.Name}', version {section.Version}, is not known here", out fault);
        }
        return Done(out fault);
    }

    /// <summary>Takes all sections that were not taken yet, in no order, for who puts a state together from them.</summary>
    public IReadOnlyList<StateSection> TakeRest()
    {
        StateSection[] rest = [.. _sections.Values];
        _sections.Clear();
        return rest;
    }

    private static bool Fits(in StateSection section, ushort newest, int minLength, int maxLength, out Fault fault)
    {
        if (section.Version > newest)
            return Refuse($"section '{section.Name}' is of version {section.Version}; versions up to {newest} are read", out fault);
        var length = section.Content.Length;
        if (length >= minLength && length <= maxLength)
            return Done(out fault);
        var wanted = minLength == maxLength ? $"{minLength}" : $"{minLength} to {maxLength}";
        return Refuse($"section '{section.Name}', version {section.Version}, has {length} bytes instead of {wanted}", out fault);
    }

    private bool TryReadSection(ReadOnlyMemory<byte> rest, out int size, out Fault fault)
    {
        size = 0;
        var bytes = rest.Span;
        if (bytes.Length < StateForm.SectionHeaderSize)
            return Refuse("the state ends in the middle of a section", out fault);
        var nameLength = bytes[0];
        var flags = bytes[1];
        var version = BinaryPrimitives.ReadUInt16LittleEndian(bytes[2..]);
        var length = BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]);
        var room = bytes.Length - StateForm.SectionHeaderSize;
        if (nameLength > room || !StateForm.IsName(bytes.Slice(StateForm.SectionHeaderSize, nameLength)))
            return Refuse("the state has a section whose name is none", out fault);
        var name = Encoding.ASCII.GetString(bytes.Slice(StateForm.SectionHeaderSize, nameLength));
        if (length > (uint)(room - nameLength))
            return Refuse($"section '{name}', version {version}, is cut off: it has {room - nameLength} of {length} bytes", out fault);
        if (version == 0 || (flags & ~StateForm.Optional) != 0)
            return Refuse($"section '{name}', version {version}, has flags 0x{flags:x} or a version that there is not", out fault);
        size = StateForm.SectionHeaderSize + nameLength + (int)length;
        var content = rest.Slice(StateForm.SectionHeaderSize + nameLength, (int)length);
        return _sections.TryAdd(name, new StateSection(name, version, content, flags == StateForm.Optional))
            ? Done(out fault)
            : Refuse($"section '{name}', version {version}, comes twice", out fault);
    }

    private static bool Refuse(string why, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, why);
        return false;
    }

    private static bool Done(out Fault fault)
    {
        fault = Fault.None;
        return true;
    }
}
