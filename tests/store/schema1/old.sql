CREATE TABLE luthier_jobs (
    study integer NOT NULL,
    number bigint NOT NULL,
    created bigint NOT NULL,
    config text NOT NULL,
    config_vectors bytea,
    steps bigint NOT NULL,
    parent bigint,
    tag text,
    owner integer,
    snapshots bigint DEFAULT '0'::bigint NOT NULL,
    done bigint,
    status text,
    metrics text,
    steps_done bigint,
    final text,
    final_vectors bytea,
    seconds double precision,
    error text,
    checkpoint_file text,
    checkpoint_row bigint
);
CREATE TABLE luthier_owners (
    id integer NOT NULL,
    study integer NOT NULL,
    owner text NOT NULL,
    host text NOT NULL,
    pid bigint NOT NULL,
    started text NOT NULL,
    until double precision NOT NULL
);
CREATE SEQUENCE luthier_owners_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE luthier_owners_id_seq OWNED BY luthier_owners.id;
CREATE TABLE luthier_reports (
    study integer NOT NULL,
    event bigint NOT NULL,
    number bigint NOT NULL,
    step bigint NOT NULL,
    metrics text NOT NULL,
    hyperparameters text,
    vectors bytea,
    "position" bigint
);
CREATE TABLE luthier_schema (
    version integer NOT NULL
);
CREATE TABLE luthier_studies (
    id integer NOT NULL,
    name text NOT NULL,
    settings text NOT NULL,
    events bigint NOT NULL,
    jobs bigint NOT NULL,
    done bigint NOT NULL,
    best bigint,
    best_value double precision,
    created double precision NOT NULL,
    updated double precision NOT NULL,
    turn_owner integer,
    turn_until double precision
);
CREATE SEQUENCE luthier_studies_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE luthier_studies_id_seq OWNED BY luthier_studies.id;
ALTER TABLE ONLY luthier_owners ALTER COLUMN id SET DEFAULT nextval('luthier_owners_id_seq'::regclass);
ALTER TABLE ONLY luthier_studies ALTER COLUMN id SET DEFAULT nextval('luthier_studies_id_seq'::regclass);
INSERT INTO luthier_jobs VALUES (1, 3, 4, '{"x":0.5}', NULL, 1, NULL, NULL, 1, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 7, 15, '{"x":0.7035912352212377,"kind":"b"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 16, 'ok', '{"loss":0.7035912352212377}', 1, NULL, NULL, 7.479200030502398e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (1, 1, 2, '{"$dict":[["lr",0.0001],["$float","nan"],["all",{"$f8":[0,104]}]]}', '\x00000000000000009a9999999999b93f9a9999999999c93f343333333333d33f9a9999999999d93f000000000000e03f343333333333e33f676666666666e63f9a9999999999e93fcdccccccccccec3f000000000000f03f9a9999999999f13f343333333333f33fcdccccccccccf43f676666666666f63f000000000000f83f9a9999999999f93f343333333333fb3fcdccccccccccfc3f676666666666fe3f0000000000000040cdcccccccccc00409a99999999990140676666666666024034333333333303400000000000000440cdcccccccccc04409a99999999990540676666666666064034333333333307400000000000000840cdcccccccccc08409a999999999909406766666666660a403433333333330b400000000000000c40cdcccccccccc0c409a99999999990d406766666666660e403433333333330f4000000000000010406766666666661040cdcccccccccc104033333333333311409a9999999999114000000000000012406766666666661240cdcccccccccc124034333333333313409a9999999999134000000000000014406766666666661440cdcccccccccc144034333333333315409a9999999999154000000000000016406766666666661640cdcccccccccc164034333333333317409a9999999999174000000000000018406766666666661840cdcccccccccc184034333333333319409a999999999919400000000000001a406766666666661a40cdcccccccccc1a403433333333331b409a99999999991b400000000000001c406766666666661c40cdcccccccccc1c403433333333331d409a99999999991d400000000000001e406766666666661e40cdcccccccccc1e403433333333331f409a99999999991f400000000000002040333333333333204067666666666620409a99999999992040cdcccccccccc20400000000000002140333333333333214067666666666621409a99999999992140cdcccccccccc21400000000000002240333333333333224067666666666622409a99999999992240cdcccccccccc22400000000000002340343333333333234067666666666623409a99999999992340cdcccccccccc2340000000000000f87f000000000000f0ff00000000000000800100000000000000', 12, 0, '{"deep":{"a":[{"b":{"$float":"nan"}},{"$float":"-inf"}]}}', 1, 2, 10, 'diverged', '{"$dict":[["loss",{"$float":"nan"}],["$l",{"$float":"inf"}]]}', 3, '{"all":{"$f8":[0,104]},"lr":{"$float":"inf"}}', '\x00000000000000009a9999999999b93f9a9999999999c93f343333333333d33f9a9999999999d93f000000000000e03f343333333333e33f676666666666e63f9a9999999999e93fcdccccccccccec3f000000000000f03f9a9999999999f13f343333333333f33fcdccccccccccf43f676666666666f63f000000000000f83f9a9999999999f93f343333333333fb3fcdccccccccccfc3f676666666666fe3f0000000000000040cdcccccccccc00409a99999999990140676666666666024034333333333303400000000000000440cdcccccccccc04409a99999999990540676666666666064034333333333307400000000000000840cdcccccccccc08409a999999999909406766666666660a403433333333330b400000000000000c40cdcccccccccc0c409a99999999990d406766666666660e403433333333330f4000000000000010406766666666661040cdcccccccccc104033333333333311409a9999999999114000000000000012406766666666661240cdcccccccccc124034333333333313409a9999999999134000000000000014406766666666661440cdcccccccccc144034333333333315409a9999999999154000000000000016406766666666661640cdcccccccccc164034333333333317409a9999999999174000000000000018406766666666661840cdcccccccccc184034333333333319409a999999999919400000000000001a406766666666661a40cdcccccccccc1a403433333333331b409a99999999991b400000000000001c406766666666661c40cdcccccccccc1c403433333333331d409a99999999991d400000000000001e406766666666661e40cdcccccccccc1e403433333333331f409a99999999991f400000000000002040333333333333204067666666666620409a99999999992040cdcccccccccc20400000000000002140333333333333214067666666666621409a99999999992140cdcccccccccc21400000000000002240333333333333224067666666666622409a99999999992240cdcccccccccc22400000000000002340343333333333234067666666666623409a99999999992340cdcccccccccc2340000000000000f87f000000000000f0ff00000000000000800100000000000000', NULL, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (1, 0, 1, '{}', NULL, 1, NULL, NULL, 1, 0, 11, 'ok', '{"loss":0.30000000000000004}', 5, NULL, NULL, 0.3333333333333333, NULL, 'stack-"0".ckpt', 12);
INSERT INTO luthier_jobs VALUES (1, 2, 3, '{"\u00e4":"gr\u00f6\u00dfe \n\u0000\ud800"}', NULL, 1099511627776, NULL, NULL, 1, 0, 12, 'failed', '{}', 0, NULL, NULL, 'Infinity', '"ValueError: ''gr\u00f6\u00dfe'' \n\u0000 \ud800 \"q\""', NULL, NULL);
INSERT INTO luthier_jobs VALUES (1, 4, 5, '{"x":0.5}', NULL, 1, NULL, NULL, 1, 0, 13, 'pruned', '{"loss":1e-300}', 2, '{"x":5e-324}', NULL, 1e+22, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 0, 1, '{"x":0.6119768769983425,"kind":"a"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 2, 'ok', '{"loss":0.6119768769983425}', 1, NULL, NULL, 4.695999996329192e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 1, 3, '{"x":0.6047351956588686,"kind":"b"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 4, 'ok', '{"loss":0.6047351956588686}', 1, NULL, NULL, 7.383999991361634e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 2, 5, '{"x":0.8574669306089336,"kind":"b"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 6, 'ok', '{"loss":0.8574669306089336}', 1, NULL, NULL, 7.095599994499935e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 3, 7, '{"x":0.27250359493582943,"kind":"a"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 8, 'ok', '{"loss":0.27250359493582943}', 1, NULL, NULL, 4.899299983662786e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 4, 9, '{"x":0.9794683020724776,"kind":"b"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 10, 'ok', '{"loss":0.9794683020724776}', 1, NULL, NULL, 5.00139999530802e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 5, 11, '{"x":0.9205493553462093,"kind":"b"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 12, 'ok', '{"loss":0.9205493553462093}', 1, NULL, NULL, 7.650399993508472e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 6, 13, '{"x":0.7757078889982244,"kind":"a"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 14, 'ok', '{"loss":0.7757078889982244}', 1, NULL, NULL, 5.409100003817002e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 8, 17, '{"x":0.2887269639667073,"kind":"a"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 18, 'ok', '{"loss":0.2887269639667073}', 1, NULL, NULL, 4.6578999899793416e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 9, 19, '{"x":0.043439602986505954,"kind":"b"}', NULL, 1, NULL, '{"generation":0}', 2, 0, 20, 'ok', '{"loss":0.043439602986505954}', 1, NULL, NULL, 3.683399972942425e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 10, 21, '{"x":0.2887269639667073,"kind":"b"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 22, 'ok', '{"loss":0.2887269639667073}', 1, NULL, NULL, 4.456699980437406e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 11, 23, '{"x":0.8539154317560469,"kind":"a"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 24, 'ok', '{"loss":0.8539154317560469}', 1, NULL, NULL, 6.729999995513936e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 12, 25, '{"x":0.2887269639667073,"kind":"b"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 26, 'ok', '{"loss":0.2887269639667073}', 1, NULL, NULL, 4.4877000163978664e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 13, 27, '{"x":0.043439602986505954,"kind":"a"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 28, 'ok', '{"loss":0.043439602986505954}', 1, NULL, NULL, 6.604899999729241e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 14, 29, '{"x":0.006706235009342532,"kind":"b"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 30, 'ok', '{"loss":0.006706235009342532}', 1, NULL, NULL, 5.659399994328851e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 15, 31, '{"x":0.5653291465789541,"kind":"b"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 32, 'ok', '{"loss":0.5653291465789541}', 1, NULL, NULL, 6.71600000714534e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 16, 33, '{"x":0.14234309724868455,"kind":"b"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 34, 'ok', '{"loss":0.14234309724868455}', 1, NULL, NULL, 4.727099985757377e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 17, 35, '{"x":0.04049885978981782,"kind":"a"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 36, 'ok', '{"loss":0.04049885978981782}', 1, NULL, NULL, 7.969899979798356e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 18, 37, '{"x":0.2887269639667073,"kind":"a"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 38, 'ok', '{"loss":0.2887269639667073}', 1, NULL, NULL, 4.402599961395026e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 19, 39, '{"x":0.6047351956588686,"kind":"a"}', NULL, 1, NULL, '{"generation":1}', 2, 0, 40, 'ok', '{"loss":0.6047351956588686}', 1, NULL, NULL, 3.658500008896226e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 20, 41, '{"x":0.043439602986505954,"kind":"b"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 42, 'ok', '{"loss":0.043439602986505954}', 1, NULL, NULL, 2.9673999961232767e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 21, 43, '{"x":0.06479519427142066,"kind":"a"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 44, 'ok', '{"loss":0.06479519427142066}', 1, NULL, NULL, 3.8717999814252835e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 22, 45, '{"x":0.14234309724868455,"kind":"a"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 46, 'ok', '{"loss":0.14234309724868455}', 1, NULL, NULL, 4.038999986732961e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 23, 47, '{"x":0.043439602986505954,"kind":"b"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 48, 'ok', '{"loss":0.043439602986505954}', 1, NULL, NULL, 6.175199996505398e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 24, 49, '{"x":0.4534649853471434,"kind":"b"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 50, 'ok', '{"loss":0.4534649853471434}', 1, NULL, NULL, 3.256899981352035e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 25, 51, '{"x":0.27250359493582943,"kind":"b"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 52, 'ok', '{"loss":0.27250359493582943}', 1, NULL, NULL, 6.56080001135706e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 26, 53, '{"x":0.6724514788471745,"kind":"a"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 54, 'ok', '{"loss":0.6724514788471745}', 1, NULL, NULL, 3.5633000152301975e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 27, 55, '{"x":0.27250359493582943,"kind":"a"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 56, 'ok', '{"loss":0.27250359493582943}', 1, NULL, NULL, 4.734999993161182e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 28, 57, '{"x":0.9793004139436967,"kind":"a"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 58, 'ok', '{"loss":0.9793004139436967}', 1, NULL, NULL, 3.259899995100568e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 29, 59, '{"x":0.043439602986505954,"kind":"b"}', NULL, 1, NULL, '{"generation":2}', 2, 0, 60, 'ok', '{"loss":0.043439602986505954}', 1, NULL, NULL, 2.816200003508129e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 30, 61, '{"x":0.8246578728588347,"kind":"a"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 62, 'ok', '{"loss":0.8246578728588347}', 1, NULL, NULL, 4.0099999750964344e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 31, 63, '{"x":0.5383186533150236,"kind":"b"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 64, 'ok', '{"loss":0.5383186533150236}', 1, NULL, NULL, 4.7229999836417846e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 32, 65, '{"x":0.006706235009342532,"kind":"a"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 66, 'ok', '{"loss":0.006706235009342532}', 1, NULL, NULL, 4.2503000258875545e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 33, 67, '{"x":0.5638406526795102,"kind":"b"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 68, 'ok', '{"loss":0.5638406526795102}', 1, NULL, NULL, 3.641399962361902e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 34, 69, '{"x":0.3602137892052465,"kind":"b"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 70, 'ok', '{"loss":0.3602137892052465}', 1, NULL, NULL, 2.7970999781246064e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 35, 71, '{"x":0.09727398121954545,"kind":"a"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 72, 'ok', '{"loss":0.09727398121954545}', 1, NULL, NULL, 3.0826000056549674e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 36, 73, '{"x":0.9298326011100951,"kind":"b"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 74, 'ok', '{"loss":0.9298326011100951}', 1, NULL, NULL, 3.0215000151656568e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 37, 75, '{"x":0.14234309724868455,"kind":"a"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 76, 'ok', '{"loss":0.14234309724868455}', 1, NULL, NULL, 3.27990001096623e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 38, 77, '{"x":0.8935570621312118,"kind":"a"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 78, 'ok', '{"loss":0.8935570621312118}', 1, NULL, NULL, 5.091599996376317e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (2, 39, 79, '{"x":0.006706235009342532,"kind":"b"}', NULL, 1, NULL, '{"generation":3}', 2, 0, 80, 'ok', '{"loss":0.006706235009342532}', 1, NULL, NULL, 3.0516000151692424e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 0, 1, '{"x":0.6119768769983425,"kind":"a"}', NULL, 1, NULL, NULL, 3, 0, 2, 'ok', '{"loss":0.6119768769983425,"accuracy":0.3745156979806444}', 1, NULL, NULL, 6.679999978587148e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 1, 3, '{"x":0.6047351956588686,"kind":"b"}', NULL, 1, NULL, NULL, 3, 0, 4, 'ok', '{"loss":0.6047351956588686,"accuracy":0.36570465686857007}', 1, NULL, NULL, 5.106599974169512e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 2, 5, '{"x":0.8574669306089336,"kind":"b"}', NULL, 1, NULL, NULL, 3, 0, 6, 'ok', '{"loss":0.8574669306089336,"accuracy":0.7352495370879059}', 1, NULL, NULL, 3.152699991915142e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 3, 7, '{"x":0.27250359493582943,"kind":"a"}', NULL, 1, NULL, NULL, 3, 0, 8, 'ok', '{"loss":0.27250359493582943,"accuracy":0.0742582092529506}', 1, NULL, NULL, 6.256300002860371e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 4, 9, '{"x":0.9794683020724776,"kind":"b"}', NULL, 1, NULL, NULL, 3, 0, 10, 'ok', '{"loss":0.9794683020724776,"accuracy":0.9593581547647422}', 1, NULL, NULL, 3.6563999856298324e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 5, 11, '{"x":0.9205493553462093,"kind":"b"}', NULL, 1, NULL, NULL, 3, 0, 12, 'ok', '{"loss":0.9205493553462093,"accuracy":0.8474111156283215}', 1, NULL, NULL, 5.04049999108247e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 6, 13, '{"x":0.7757078889982244,"kind":"a"}', NULL, 1, NULL, NULL, 3, 0, 14, 'ok', '{"loss":0.7757078889982244,"accuracy":0.6017227290540816}', 1, NULL, NULL, 4.8752000111562666e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 7, 15, '{"x":0.7035912352212377,"kind":"b"}', NULL, 1, NULL, NULL, 3, 0, 16, 'ok', '{"loss":0.7035912352212377,"accuracy":0.495040626280147}', 1, NULL, NULL, 5.588400017586537e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 8, 17, '{"x":0.2887269639667073,"kind":"a"}', NULL, 1, NULL, NULL, 3, 0, 18, 'ok', '{"loss":0.2887269639667073,"accuracy":0.08336325972143228}', 1, NULL, NULL, 2.6809999781107763e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 9, 19, '{"x":0.043439602986505954,"kind":"b"}', NULL, 1, NULL, NULL, 3, 0, 20, 'ok', '{"loss":0.043439602986505954,"accuracy":0.0018869991076252571}', 1, NULL, NULL, 8.008999975572806e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 10, 21, '{"x":0.5642645051727342,"kind":"a"}', NULL, 1, NULL, NULL, 3, 0, 22, 'ok', '{"loss":0.5642645051727342,"accuracy":0.31839443179783056}', 1, NULL, NULL, 4.6039000153541565e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (3, 11, 23, '{"x":0.8039169735895154,"kind":"a"}', NULL, 1, NULL, NULL, 3, 0, 24, 'ok', '{"loss":0.8039169735895154,"accuracy":0.6462825004253256}', 1, NULL, NULL, 2.8543000098579796e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (4, 0, 1, '{"x":0.6119768769983425,"kind":"a"}', NULL, 8, NULL, NULL, 4, 0, 6, 'ok', '{"loss":0.603383187395639}', 8, NULL, NULL, 0.0008602230000178679, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (4, 1, 7, '{"x":0.6047351956588686,"kind":"b"}', NULL, 8, NULL, NULL, 4, 0, 12, 'ok', '{"loss":0.6071167306770686}', 8, NULL, NULL, 9.791599995878641e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (4, 2, 13, '{"x":0.8574669306089336,"kind":"b"}', NULL, 8, NULL, NULL, 4, 0, 18, 'ok', '{"loss":0.4881264251133841}', 8, NULL, NULL, 9.730500005389331e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (4, 3, 19, '{"x":0.27250359493582943,"kind":"a"}', NULL, 8, NULL, NULL, 4, 0, 24, 'ok', '{"loss":0.8016939972770728}', 8, NULL, NULL, 9.812600001168903e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (4, 4, 25, '{"x":0.9794683020724776,"kind":"b"}', NULL, 8, NULL, NULL, 4, 0, 30, 'ok', '{"loss":0.43838642319688653}', 8, NULL, NULL, 7.211799993456225e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (4, 5, 31, '{"x":0.9205493553462093,"kind":"b"}', NULL, 8, NULL, NULL, 4, 0, 36, 'ok', '{"loss":0.4618240838913046}', 8, NULL, NULL, 6.944300002942327e-05, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (4, 6, 37, '{"x":0.7757078889982244,"kind":"a"}', NULL, 8, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (5, 0, 1, '{"x":0.6119768769983425,"kind":"a"}', NULL, 20, NULL, '{"slot":0,"round":0}', 5, 0, 12, 'ok', '{"loss":0.2828023488208859}', 20, NULL, NULL, 0.015764862999731122, NULL, 'job-0-5d88e7fc0f43.ckpt', 0);
INSERT INTO luthier_jobs VALUES (5, 1, 13, '{"x":0.6047351956588686,"kind":"b"}', NULL, 20, NULL, '{"slot":1,"round":0}', 5, 0, 24, 'ok', '{"loss":0.28719739930975463}', 20, NULL, NULL, 0.016228223999860347, NULL, 'job-1-d6d10104a91d.ckpt', 0);
INSERT INTO luthier_jobs VALUES (5, 2, 25, '{"x":0.8574669306089336,"kind":"b"}', NULL, 20, NULL, '{"slot":2,"round":0}', 5, 0, 36, 'ok', '{"loss":0.16646801384350862}', 20, NULL, NULL, 0.009887556999728986, NULL, 'job-2-05f08800af80.ckpt', 0);
INSERT INTO luthier_jobs VALUES (5, 3, 37, '{"x":0.27250359493582943,"kind":"a"}', NULL, 20, NULL, '{"slot":3,"round":0}', 5, 0, 48, 'ok', '{"loss":0.5754685309005007}', 20, NULL, NULL, 0.006028631999924983, NULL, 'job-3-89115c3c59f6.ckpt', 0);
INSERT INTO luthier_jobs VALUES (5, 4, 49, '{"x":0.6119768769983425,"kind":"a"}', NULL, 20, 0, '{"slot":0,"round":1}', 5, 0, 60, 'ok', '{"loss":0.07997716849860999}', 20, NULL, NULL, 0.014624511999954848, NULL, 'job-4-be5b9aeaa65d.ckpt', 0);
INSERT INTO luthier_jobs VALUES (5, 5, 61, '{"x":0.6047351956588686,"kind":"b"}', NULL, 20, 1, '{"slot":1,"round":1}', NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO luthier_jobs VALUES (6, 0, 1, '{"act":"tanh"}', NULL, 100, NULL, '{"phase":"search"}', 6, 0, 2, 'failed', '{}', 0, NULL, NULL, 0.13298351399998865, '"TaskError: TorchTask(optimizer=\u2026): there is no learning rate. Put lr=lt.Float(1e-4, 1, log=True) into the space, or write lt.optim.SGD(lr=0.1)."', NULL, NULL);
INSERT INTO luthier_owners VALUES (1, 1, 'maker', 'vm/6c38dbed-ad8a-475a-8060-2c8b0bf20a39/pid:[4026531836]', 7609, '248809', 1795991979.309819);
INSERT INTO luthier_owners VALUES (2, 2, 'process 7609', 'vm/6c38dbed-ad8a-475a-8060-2c8b0bf20a39/pid:[4026531836]', 7609, '248809', 1795991979.430059);
INSERT INTO luthier_owners VALUES (3, 3, 'process 7609', 'vm/6c38dbed-ad8a-475a-8060-2c8b0bf20a39/pid:[4026531836]', 7609, '248809', 1795991979.876933);
INSERT INTO luthier_owners VALUES (4, 4, 'process 7609', 'vm/6c38dbed-ad8a-475a-8060-2c8b0bf20a39/pid:[4026531836]', 7609, '248809', 1795991980.032599);
INSERT INTO luthier_owners VALUES (5, 5, 'process 7609', 'vm/6c38dbed-ad8a-475a-8060-2c8b0bf20a39/pid:[4026531836]', 7609, '248809', 1795991980.111123);
INSERT INTO luthier_owners VALUES (6, 6, 'process 7609', 'vm/6c38dbed-ad8a-475a-8060-2c8b0bf20a39/pid:[4026531836]', 7609, '248809', 1795991980.365624);
INSERT INTO luthier_reports VALUES (1, 6, 1, 10, '{"loss":{"$float":"nan"}}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (1, 7, 0, 1, '{}', '{"$dict":[["lr",0.1],["$x",{"$float":"-inf"}]]}', NULL, NULL);
INSERT INTO luthier_reports VALUES (1, 8, 1, 20, '{"loss":0.5}', '{"mask":{"$f4":[0,100]},"lr":0.1}', '\x000000000000803e0000003f0000403f0000803f0000a03f0000c03f0000e03f0000004000001040000020400000304000004040000050400000604000007040000080400000884000009040000098400000a0400000a8400000b0400000b8400000c0400000c8400000d0400000d8400000e0400000e8400000f0400000f84000000041000004410000084100000c4100001041000014410000184100001c4100002041000024410000284100002c4100003041000034410000384100003c4100004041000044410000484100004c4100005041000054410000584100005c4100006041000064410000684100006c4100007041000074410000784100007c41000080410000824100008441000086410000884100008a4100008c4100008e41000090410000924100009441000096410000984100009a4100009c4100009e410000a0410000a2410000a4410000a6410000a8410000aa410000ac410000ae410000b0410000b2410000b4410000b6410000b8410000ba410000bc410000be410000c0410000c2410000c4410000c641', 0);
INSERT INTO luthier_reports VALUES (1, 9, 1, 30, '{"loss":0.25}', '{"mask":{"$f4":[0,100]},"lr":0.1}', '\x000000000000003f0000803f0000c03f0000004000002040000040400000604000008040000090400000a0400000b0400000c0400000d0400000e0400000f0400000004100000841000010410000184100002041000028410000304100003841000040410000484100005041000058410000604100006841000070410000784100008041000084410000884100008c4100009041000094410000984100009c410000a0410000a4410000a8410000ac410000b0410000b4410000b8410000bc410000c0410000c4410000c8410000cc410000d0410000d4410000d8410000dc410000e0410000e4410000e8410000ec410000f0410000f4410000f8410000fc41000000420000024200000442000006420000084200000a4200000c4200000e42000010420000124200001442000016420000184200001a4200001c4200001e42000020420000224200002442000026420000284200002a4200002c4200002e42000030420000324200003442000036420000384200003a4200003c4200003e4200004042000042420000444200004642', 1);
INSERT INTO luthier_reports VALUES (4, 2, 0, 2, '{"loss":0.881349781580138}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 3, 0, 4, '{"loss":0.776777437491357}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 4, 0, 6, '{"loss":0.6846126248693868}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 5, 0, 8, '{"loss":0.603383187395639}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 8, 1, 2, '{"loss":0.882710007436912}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 9, 1, 4, '{"loss":0.7791769572292732}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 10, 1, 6, '{"loss":0.6877872977105222}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 11, 1, 8, '{"loss":0.6071167306770686}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 14, 2, 2, '{"loss":0.8358591092490923}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 15, 2, 4, '{"loss":0.6986604505146861}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 16, 2, 6, '{"loss":0.583981701834775}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 17, 2, 8, '{"loss":0.4881264251133841}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 20, 3, 2, '{"loss":0.9462418631053637}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 21, 3, 4, '{"loss":0.8953736634931099}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 22, 3, 6, '{"loss":0.8472400435191952}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 23, 3, 8, '{"loss":0.8016939972770728}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 26, 4, 2, '{"loss":0.813699921133152}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 27, 4, 4, '{"loss":0.6621075616520978}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 28, 4, 6, '{"loss":0.5387568706979756}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 29, 4, 8, '{"loss":0.43838642319688653}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 32, 5, 2, '{"loss":0.8243642400870413}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 33, 5, 4, '{"loss":0.6795764003342851}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 34, 5, 6, '{"loss":0.56021848284266}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (4, 35, 5, 8, '{"loss":0.4618240838913046}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 2, 0, 2, '{"loss":0.881349781580138}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 3, 0, 4, '{"loss":0.776777437491357}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 4, 0, 6, '{"loss":0.6846126248693868}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 5, 0, 8, '{"loss":0.603383187395639}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 6, 0, 10, '{"loss":0.5317916404202739}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 7, 0, 12, '{"loss":0.4686944461305517}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 8, 0, 14, '{"loss":0.4130837477249855}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 9, 0, 16, '{"loss":0.3640712708317208}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 10, 0, 18, '{"loss":0.3208741350271404}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 11, 0, 20, '{"loss":0.2828023488208859}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 14, 1, 2, '{"loss":0.882710007436912}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 15, 1, 4, '{"loss":0.7791769572292732}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 16, 1, 6, '{"loss":0.6877872977105222}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 17, 1, 8, '{"loss":0.6071167306770686}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 18, 1, 10, '{"loss":0.5359080138510289}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 19, 1, 12, '{"loss":0.4730513668919425}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 20, 1, 14, '{"loss":0.41756717558722795}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 21, 1, 16, '{"loss":0.3685907246680123}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 22, 1, 18, '{"loss":0.3253587213128779}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 23, 1, 20, '{"loss":0.28719739930975463}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 26, 2, 2, '{"loss":0.8358591092490923}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 27, 2, 4, '{"loss":0.6986604505146861}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 28, 2, 6, '{"loss":0.583981701834775}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 29, 2, 8, '{"loss":0.4881264251133841}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 30, 2, 10, '{"loss":0.40800491889621704}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 31, 2, 12, '{"loss":0.34103462807784013}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 32, 2, 14, '{"loss":0.28505690044823895}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 33, 2, 16, '{"loss":0.2382674068939722}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 34, 2, 18, '{"loss":0.19915798248948663}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 35, 2, 20, '{"loss":0.16646801384350862}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 38, 3, 2, '{"loss":0.9462418631053637}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 39, 3, 4, '{"loss":0.8953736634931099}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 40, 3, 6, '{"loss":0.8472400435191952}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 41, 3, 8, '{"loss":0.8016939972770728}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 42, 3, 10, '{"loss":0.7585964216238438}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 43, 3, 12, '{"loss":0.717815691342408}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 44, 3, 14, '{"loss":0.6792272571421049}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 45, 3, 16, '{"loss":0.6427132652700913}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 46, 3, 18, '{"loss":0.6081621975717031}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 47, 3, 20, '{"loss":0.5754685309005007}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 50, 4, 22, '{"loss":0.24924778836363778}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 51, 4, 24, '{"loss":0.21967448383362462}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 52, 4, 26, '{"loss":0.1936100583454946}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 53, 4, 28, '{"loss":0.17063818263451944}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 54, 4, 30, '{"loss":0.1503919249941654}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 55, 4, 32, '{"loss":0.13254789024502417}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 56, 4, 34, '{"loss":0.11682105411636015}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 57, 4, 36, '{"loss":0.1029602105294155}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 58, 4, 38, '{"loss":0.09074395906154537}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 59, 4, 40, '{"loss":0.07997716849860999}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 62, 5, 22, '{"loss":0.2535120184805753}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 63, 5, 24, '{"loss":0.2237775957183352}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 64, 5, 26, '{"loss":0.19753072318074594}', NULL, NULL, NULL);
INSERT INTO luthier_reports VALUES (5, 65, 5, 28, '{"loss":0.17436234612789484}', NULL, NULL, NULL);
INSERT INTO luthier_schema VALUES (1);
INSERT INTO luthier_studies VALUES (1, 'odd', '{"objectives":{"loss":"min","accuracy":"max"},"space":{"domains":[{"name":"x","type":"float","low":0.0,"high":1.0,"log":false,"shape":[]}]},"seed":0}', 13, 5, 4, 0, 0.30000000000000004, 1795991919.280643, 1795991919.370407, NULL, NULL);
INSERT INTO luthier_studies VALUES (5, 'pbt', '{"space":{"domains":[{"name":"x","type":"float","low":0.0,"high":1.0,"log":false,"shape":[]},{"name":"kind","type":"choice","options":["a","b"],"ordered":false}]},"objectives":{"loss":"min"},"seed":3,"method":{"proposer":{"class":"PBT","rounds":4,"exploit":"truncation","quantile":0.2,"factors":[0.8,1.2],"resample":0.25,"mutate":null,"fresh":0,"asynchronous":false},"adapter":null},"budget":{"trials":4,"steps":80,"epochs":null},"task":"training","wall_seconds":0.118,"method_seconds":0.002}', 65, 6, 5, 4, 0.07997716849860999, 1795991920.110402, 1795991920.230675, NULL, NULL);
INSERT INTO luthier_studies VALUES (6, 'enas', '{"space":{"domains":[{"name":"act","type":"choice","options":["relu","tanh"],"ordered":false}]},"objectives":{"loss":"min"},"seed":3,"method":{"proposer":{"class":"Derive","search":0.5,"draws":30,"draw_steps":10,"rank":null},"adapter":{"class":"Enas","response":"none","decide":null,"policy":"lstm","learner":{"class":"Reinforce","lr":0.005,"baseline":"ema","baseline_decay":0.95,"normalise":true,"entropy_weight":0.01,"clip":5.0,"beta1":0.9,"beta2":0.999},"samples":4,"steps":5,"warmup":1.0,"guard":0.1,"iterations":5,"damping":0.1}},"budget":{"trials":2,"steps":400,"epochs":null},"task":"torchtask","wall_seconds":0.15,"method_seconds":0.0}', 2, 1, 1, NULL, NULL, 1795991920.364512, 1795991920.528828, NULL, NULL);
INSERT INTO luthier_studies VALUES (3, 'several', '{"space":{"domains":[{"name":"x","type":"float","low":0.0,"high":1.0,"log":false,"shape":[]},{"name":"kind","type":"choice","options":["a","b"],"ordered":false}]},"objectives":{"loss":"min","accuracy":"max"},"seed":3,"method":{"proposer":{"class":"Random"},"adapter":null},"budget":{"trials":12,"steps":null,"epochs":null},"task":"both","wall_seconds":0.123,"method_seconds":0.002}', 24, 12, 12, 9, 0.043439602986505954, 1795991919.870747, 1795991920.018933, NULL, NULL);
INSERT INTO luthier_studies VALUES (2, 'finished', '{"space":{"domains":[{"name":"x","type":"float","low":0.0,"high":1.0,"log":false,"shape":[]},{"name":"kind","type":"choice","options":["a","b"],"ordered":false}]},"objectives":{"loss":"min"},"seed":3,"method":{"proposer":{"class":"Genetic","population":10,"generations":null,"mutation":0.2,"nudge":0.0,"elite":2,"inherit":"none","mutate":null,"distinct":true},"adapter":null},"budget":{"trials":40,"steps":null,"epochs":null},"task":"lambda","wall_seconds":0.427,"method_seconds":0.012}', 80, 40, 40, 14, 0.006706235009342532, 1795991919.396607, 1795991919.869576, NULL, NULL);
INSERT INTO luthier_studies VALUES (4, 'running', '{"space":{"domains":[{"name":"x","type":"float","low":0.0,"high":1.0,"log":false,"shape":[]},{"name":"kind","type":"choice","options":["a","b"],"ordered":false}]},"objectives":{"loss":"min"},"seed":3,"method":{"proposer":{"class":"Random"},"adapter":null},"budget":{"trials":30,"steps":8,"epochs":null},"task":"training","wall_seconds":0.064,"method_seconds":0.001}', 37, 7, 6, 4, 0.43838642319688653, 1795991920.029234, 1795991920.109477, NULL, NULL);
SELECT pg_catalog.setval('luthier_owners_id_seq', 6, true);
SELECT pg_catalog.setval('luthier_studies_id_seq', 6, true);
ALTER TABLE ONLY luthier_jobs
    ADD CONSTRAINT luthier_jobs_pkey PRIMARY KEY (study, number);
ALTER TABLE ONLY luthier_owners
    ADD CONSTRAINT luthier_owners_pkey PRIMARY KEY (id);
ALTER TABLE ONLY luthier_reports
    ADD CONSTRAINT luthier_reports_pkey PRIMARY KEY (study, event);
ALTER TABLE ONLY luthier_studies
    ADD CONSTRAINT luthier_studies_name_key UNIQUE (name);
ALTER TABLE ONLY luthier_studies
    ADD CONSTRAINT luthier_studies_pkey PRIMARY KEY (id);
CREATE INDEX ix_luthier_owners_study ON luthier_owners USING btree (study);
CREATE INDEX luthier_jobs_done ON luthier_jobs USING btree (study, done);
CREATE INDEX luthier_reports_vectors ON luthier_reports USING btree (study, number) WHERE ("position" IS NOT NULL);
ALTER TABLE ONLY luthier_jobs
    ADD CONSTRAINT luthier_jobs_study_fkey FOREIGN KEY (study) REFERENCES luthier_studies(id) ON DELETE CASCADE;
ALTER TABLE ONLY luthier_owners
    ADD CONSTRAINT luthier_owners_study_fkey FOREIGN KEY (study) REFERENCES luthier_studies(id) ON DELETE CASCADE;
ALTER TABLE ONLY luthier_reports
    ADD CONSTRAINT luthier_reports_study_fkey FOREIGN KEY (study) REFERENCES luthier_studies(id) ON DELETE CASCADE;
