using System.Buffers.Binary;
using FsCheck;
using FsCheck.Fluent;
using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

/// <summary>The form in which states move: sections with a name and a version, and what is refused.</summary>
public sealed class StateSectionTests
{
    private const int MaxSize = 1 << 16;
    private const int Header = 12;

    [Fact]
    public void Any_sections_come_back_as_they_were_written()
    {
        var name = Gen.Elements("abcdefghijklmnopqrstuvwxyz0123456789-.".ToCharArray()).NonEmptyListOf().Select(l => new string([.. l.Take(32)]));
        var content = Gen.Choose(0, 255).Select(b => (byte)b).ArrayOf();
        var section = name.Zip(content).Zip(Gen.Choose(1, ushort.MaxValue)).Zip(Gen.Elements(true, false));
        Prop.ForAll(section.ArrayOf().ToArbitrary(), all =>
        {
            var sections = all.Select(s => new StateSection(s.Item1.Item1.Item1, (ushort)s.Item1.Item2, s.Item1.Item1.Item2, s.Item2)).DistinctBy(s => s.Name).ToArray();
            var writer = new StateWriter();
            foreach (var s in sections)
                writer.Add(s.Name, s.Version, s.Content.Span, s.IsOptional);
            var bytes = writer.ToArray();
            Assert.Equal(writer.Size, bytes.Length);
            Assert.True(StateReader.TryRead(bytes, bytes.Length, out var reader, out var fault), fault.Message);
            foreach (var s in sections.Reverse())
            {
                Assert.True(reader.TryTake(s.Name, s.Version, s.Content.Length, s.Content.Length, out var back, out fault), fault.Message);
                Assert.Equal((s.Name, s.Version, s.IsOptional), (back.Name, back.Version, back.IsOptional));
                Assert.Equal(s.Content.ToArray(), back.Content.ToArray());
            }
            return reader.TryFinish(out _);
        }).QuickCheckThrowOnFailure();
    }

    [Fact]
    public void What_is_cut_off_or_changed_anywhere_is_refused_or_read_and_never_worse()
    {
        var writer = new StateWriter();
        writer.Add("one", 1, [1, 2, 3]);
        writer.Add("two", 2, new byte[40], isOptional: true);
        writer.Add("three", 3, []);
        var bytes = writer.ToArray();
        for (var length = 0; length < bytes.Length; length++)
            Assert.NotEqual("", Refused(bytes[..length]));
        Prop.ForAll(Gen.Choose(0, bytes.Length - 1).Zip(Gen.Choose(0, 255)).ListOf().ToArbitrary(), changes =>
        {
            var changed = (byte[])bytes.Clone();
            foreach (var (at, value) in changes.Select(c => (c.Item1, c.Item2)))
                changed[at] = (byte)value;
            if (StateReader.TryRead(changed, MaxSize, out var reader, out var fault))
                reader.TryTake("one", 1, 3, 3, out _, out fault);
            return fault == Fault.None || (fault.Errno == Errno.EINVAL && fault.Message.Length > 0);
        }).QuickCheckThrowOnFailure();
    }

    [Fact]
    public void Bad_streams_are_refused_with_the_section_and_version_that_is_wrong()
    {
        Assert.Equal("the bytes are no state: their beginning is that of something else", Refused([]));
        Assert.Equal("the bytes are no state: their beginning is that of something else", Refused([.. "VVFS"u8, .. new byte[108]]));
        Assert.Equal("the state is of form 2; form 1 is read", Refused(Stream(0, form: 2)));
        Assert.Equal("the state has 20 bytes; the most is 19", Refused(Stream(0, rest: new byte[8]), maxSize: 19));
        Assert.Equal("the state says that it has 13 bytes, and has 12", Refused(Stream(0, size: 13)));
        Assert.Equal("the state has 3 bytes behind its last section", Refused(Stream(0, rest: [1, 2, 3])));
        Assert.Equal("the state ends in the middle of a section", Refused(Stream(1)));
        Assert.Equal("the state ends in the middle of a section", Refused(Stream(1, rest: [3, 0, 1, 0, 0, 0, 0])));
        Assert.Equal("the state has a section whose name is none", Refused(Stream(1, rest: Section("", 1, []))));
        Assert.Equal("the state has a section whose name is none", Refused(Stream(1, rest: Section("A", 1, []))));
        Assert.Equal("the state has a section whose name is none", Refused(Stream(1, rest: Section("a\n", 1, []))));
        Assert.Equal("the state has a section whose name is none", Refused(Stream(1, rest: Section(new string('a', 33), 1, []))));
        Assert.Equal("the state has a section whose name is none", Refused(Stream(1, rest: [200, 0, 1, 0, 0, 0, 0, 0, (byte)'a'])));
        Assert.Equal("section 'disk', version 7, is cut off: it has 2 of 4294967295 bytes", Refused(Stream(1, rest: Section("disk", 7, [1, 2], length: uint.MaxValue))));
        Assert.Equal("section 'disk', version 0, has flags 0x0 or a version that there is not", Refused(Stream(1, rest: Section("disk", 0, []))));
        Assert.Equal("section 'disk', version 1, has flags 0x2 or a version that there is not", Refused(Stream(1, rest: Section("disk", 1, [], flags: 2))));
        Assert.Equal("section 'disk', version 4, comes twice", Refused(Stream(2, rest: [.. Section("disk", 3, [1]), .. Section("disk", 4, [2])])));
        Assert.Equal("the state ends in the middle of a section", Refused(Stream(ushort.MaxValue, rest: Section("disk", 1, []))));
    }

    [Fact]
    public void Unknown_sections_and_newer_versions_are_refused_by_name_unless_they_say_that_they_may_be_missing()
    {
        var reader = Read(Stream(3, rest: [.. Section("disk", 3, [1]), .. Section("cache", 5, [1], flags: 1), .. Section("colour", 2, [])]));
        Assert.False(reader.TryTake("disk", 2, 1, 1, out _, out var fault));
        Assert.Equal(new Fault(Errno.EINVAL, "section 'disk' is of version 3; versions up to 2 are read"), fault);

        reader = Read(Stream(3, rest: [.. Section("disk", 3, [1]), .. Section("cache", 5, [1], flags: 1), .. Section("colour", 2, [])]));
        Assert.True(reader.TryTake("disk", 3, 1, 1, out _, out _));
        // One that may be left out, of a version that is not known: it is as if it were not there, but not for who must have it.
        Assert.True(reader.TryTakeIfThere("cache", 4, 1, 1, out var cache, out _));
        Assert.Null(cache);
        Assert.True(reader.TryTakeIfThere("absent", 1, 0, 0, out var absent, out _));
        Assert.Null(absent);
        Assert.False(reader.TryTake("absent", 1, 0, 0, out _, out fault));
        Assert.Equal("section 'absent' is missing", fault.Message);
        Assert.False(reader.TryFinish(out fault));
        Assert.Equal("section 'colour', version 2, is not known here", fault.Message);

        reader = Read(Stream(2, rest: [.. Section("cache", 5, [1, 2], flags: 1), .. Section("shade", 9, [], flags: 1)]));
        Assert.False(reader.TryTake("cache", 4, 1, 1, out _, out fault));
        Assert.Equal("section 'cache' is of version 5; versions up to 4 are read", fault.Message);
        Assert.True(reader.TryFinish(out _));

        reader = Read(Stream(1, rest: Section("cache", 5, [1, 2], flags: 1)));
        Assert.False(reader.TryTakeIfThere("cache", 5, 3, 4, out _, out fault));
        Assert.Equal("section 'cache', version 5, has 2 bytes instead of 3 to 4", fault.Message);
    }

    [Theory]
    [InlineData("", 1)]
    [InlineData("Disk", 1)]
    [InlineData("disk one", 1)]
    [InlineData("disk", 0)]
    [InlineData("there", 1)]
    public void Writer_takes_no_section_that_no_reader_would(string name, int version)
    {
        var writer = new StateWriter();
        writer.Add("there", 1, []);
        Assert.ThrowsAny<ArgumentException>(() => writer.Add(name, (ushort)version, []));
        Assert.True(StateReader.TryRead(writer.ToArray(), MaxSize, out _, out _));
    }

    private static StateReader Read(byte[] bytes)
    {
        Assert.True(StateReader.TryRead(bytes, MaxSize, out var reader, out var fault), fault.Message);
        return reader;
    }

    private static string Refused(byte[] bytes, int maxSize = MaxSize)
    {
        Assert.False(StateReader.TryRead(bytes, maxSize, out _, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        return fault.Message;
    }

    private static byte[] Stream(ushort sections, ushort form = 1, int? size = null, byte[]? rest = null)
    {
        var bytes = new byte[Header + (rest?.Length ?? 0)];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, StateWriter.Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(4), form);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(6), sections);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(8), size ?? bytes.Length);
        rest?.CopyTo(bytes, Header);
        return bytes;
    }

    private static byte[] Section(string name, ushort version, byte[] content, byte flags = 0, uint? length = null)
    {
        var bytes = new byte[8];
        (bytes[0], bytes[1]) = ((byte)name.Length, flags);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(2), version);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4), length ?? (uint)content.Length);
        return [.. bytes, .. System.Text.Encoding.Latin1.GetBytes(name), .. content];
    }
}
